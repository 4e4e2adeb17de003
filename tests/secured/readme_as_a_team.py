"""All of the README on a secured cluster, with the real model: `PYTHONPATH=. python -m tests.secured.readme_as_a_team`

An administrator makes the namespaces. The services run as principals of their own, with the rights of services. The
teams `reviews` and `library` apply what is theirs of the demo, `public` is the administrator's. All questions of
`make demo` are then answered, and the team `shop` does what the README does. It takes some minutes; `make secured`
runs it. Exit code 1 at the first step that does not do what the README says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import yaml

from guideway.cli.demo.plan import DemoPlan
from guideway.cli.demo.sets import make_fact_sets
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.client import Client
from guideway.schemas.reply import Completed, Reply
from guideway.settings import Settings

from .cluster import ADMIN, ROOT, SecuredCluster

DEMO: Final = ROOT / "examples" / "demo"
SPACES: Final = {"reviews": "reviews", "shop": "shop", "library": "library", "public": "admin"}
"""Namespace → its principal."""
MOOD: Final = """\
kind: endpoint/v1
namespace: shop
name: mood
model_size: small
instruction: Classify the sentiment of the message as positive or negative.
output: {type: choice, labels: [positive, negative]}
"""
ASK: Final = """\
kind: endpoint/v1
namespace: shop
name: ask
model_size: small
retrieval: {sets: [shop/handbook]}
output: {type: text}
generation: {max_tokens: 24}
"""


@dataclass
class Stage:
    """The cluster, a folder, and the processes that run."""

    secured: SecuredCluster
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environ(self, principal: str) -> dict[str, str]:
        return self.secured.environ_at_home(principal, self.folder)

    def start(self, principal: str, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            program = [sys.executable, "-m", "guideway", *command]
            self.processes.append(subprocess.Popen(program, env=self.environ(principal), stdout=log, stderr=log))

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def do(self, principal: str, *arguments: str, code: int = 0, says: str = "", timeout_s: float = 300) -> str:
        """`guideway ARGUMENTS` as this principal; it has to end with this code, and to say this."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "guideway", *arguments],
            env=self.environ(principal),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        told = done.stdout + done.stderr
        fine = done.returncode == code and says in told and "Traceback" not in told
        print(
            f"{'ok' if fine else 'NOT'} {time.monotonic() - began:5.1f} s  {principal}: {' '.join(arguments)}",
            flush=True,
        )
        if not fine:
            raise SystemExit(f"exit code {done.returncode} for {code}; {says!r} is to be in:\n{told}\n{self.logs()}")
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"{one.name}: {one.read_text(errors='replace')[-1500:]}" for one in self.folder.glob("*.log"))


def set_up(stage: Stage) -> None:
    for principal in SPACES.values():
        if principal != ADMIN:
            stage.secured.add_principal(principal)
    stage.do("admin", "services", "create")
    for namespace, principal in SPACES.items():
        stage.do("admin", "namespaces", "create", namespace, "--principal", f"User:{principal}")
    stage.start("gw-steward", "steward")
    stage.do("admin", "apply", "-f", str(DEMO / "manifests" / "model.yaml"))


def demo(stage: Stage) -> None:
    """What `make demo` does, each as whoever owns it: with the client library, all events at once."""
    plan = msgspec.convert(yaml.safe_load((DEMO / "plan.yaml").read_text()), DemoPlan)
    settings = Settings.from_environ(stage.environ("library"))
    asyncio.run(make_fact_sets(settings, plan.sets, ROOT / "examples" / "data"))
    stage.do("reviews", "apply", "-f", str(DEMO / "manifests" / "reviews.yaml"))
    library = [str(DEMO / "manifests" / f"library.{suffix}") for suffix in ("yaml", "toml")]
    stage.do("library", "apply", *(word for file in library for word in ("-f", file)))
    stage.do("admin", "apply", "-f", str(DEMO / "manifests" / "public.yaml"), "-f", str(DEMO / "asking"))
    stage.start("gw-endpoints", "endpoints")
    stage.start("gw-worker", "worker", "--size", "small")
    began = time.monotonic()
    replies = asyncio.run(_answers(stage, plan))
    wrong = [reply for reply in replies if not isinstance(reply, Completed)]
    print(f"{len(replies)} events of the demo answered in {time.monotonic() - began:.0f} s", flush=True)
    _require(not wrong, f"{wrong}\n{stage.logs()}")


async def _answers(stage: Stage, plan: DemoPlan) -> Sequence[Reply]:
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for principal in dict.fromkeys(SPACES.values()):
            cluster = Cluster.from_environ(stage.environ(principal))
            assert cluster is not None
            clients[principal] = await stack.enter_async_context(Client(cluster))
        own = [
            clients[SPACES[one.endpoint.split("/")[1]]].submit(one.endpoint, one.text, timeout_s=400)
            for one in plan.questions
        ]
        # The team `shop` asks endpoints of public, which answer from the sets of `library`.
        calls = [
            clients["shop"].submit(endpoint, text, via="shop", timeout_s=400)
            for side in plan.side_by_side
            for endpoint in side.endpoints
            for text in side.questions
        ]
        return await asyncio.gather(*own, *calls)


def readme(stage: Stage) -> None:
    """The README from "Make an endpoint" on, as the team `shop`."""
    (stage.folder / "mood.yaml").write_text(MOOD)
    (stage.folder / "ask.yaml").write_text(ASK)
    (stage.folder / "faq.csv").write_text("text\nParcels are sent on Tuesdays.\nThe shop opens at nine.\n")
    team = "shop"
    stage.do(team, "doctor")
    stage.do(team, "apply", "--dry-run", "-f", "mood.yaml")
    stage.do(team, "diff", "-f", "mood.yaml", code=1)
    stage.do(team, "apply", "-f", "mood.yaml", says="shop/mood")
    stage.do(team, "diff", "-f", "mood.yaml")
    stage.do(team, "send", "/shop/mood", "Thank you so much!")
    stage.do(team, "tail", "/shop/mood", "-n", "1", "--from-beginning")
    stage.do(team, "get", "endpoints", says="mood")
    stage.do(team, "describe", "endpoint", "shop/mood", says="kind: endpoint/v1")
    stage.do(team, "cancel", "/shop/mood", "some-id")
    stage.do(team, "sets", "create", "shop/handbook", "faq.csv")
    stage.do(team, "sets", "show", "shop/handbook")
    stage.do(team, "sets", "search", "shop/handbook", "When are parcels sent?", says="Tuesdays")
    stage.do(team, "apply", "-f", "ask.yaml")
    asked = stage.do(team, "send", "/shop/ask", "When are parcels sent?", "--json")
    _require(bool(json.loads(asked)["citations"]) and "shop/handbook" in asked, asked)
    stage.do(team, "send", "--via", "shop", "/public/fact-yes-no", "Is the Earth round?")
    _dead_letter(stage, team)
    _studio(stage, team)
    _job(stage, team)
    stage.do(team, "delete", "endpoint", "shop/ask")
    stage.do(team, "send", "/shop/ask", "Are you there?", code=1, says="unknown_endpoint")
    stage.do("admin", "audit", "shop", says="shop/mood")
    stage.do("admin", "namespaces", "list", says="shop")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"not as it should be:\n{what}")


def _dead_letter(stage: Stage, team: str) -> None:
    """None is there, and that is said; a replay of nothing is one as well."""
    stage.do(team, "dlq", "list")
    stage.do(team, "dlq", "show", "/shop/mood")
    stage.do(team, "dlq", "replay", "/shop/mood", "--yes")


def _studio(stage: Stage, team: str) -> None:
    """A small task: run, published, published anew by another method, rolled back."""
    (stage.folder / "task.yaml").write_text(_task(stage.folder, "trained", models=DEMO / "manifests" / "model.yaml"))
    stage.do(team, "studio", "run", "task.yaml", timeout_s=900)
    stage.do(team, "studio", "publish", "task.yaml", "--anyway")
    stage.do(team, "send", "/shop/trained", "bad parcel 1")
    stage.do(team, "studio", "publish", "task.yaml", "--anyway", "--method", "text-prompt")
    stage.do(team, "studio", "rollback", "/shop/trained")
    versions = stage.do(team, "studio", "versions", "/shop/trained", "--json")
    guided = [json.loads(line)["guidance"] for line in versions.splitlines()]
    _require(len(guided) == 3 and guided[0] == guided[2] != guided[1], versions)
    stage.do(team, "send", "/shop/trained", "bad parcel 2")


def _job(stage: Stage, team: str) -> None:
    """A trainer with its own rights takes the team's job, and publishes what comes of it in the team's name."""
    own = stage.folder / "data" / team
    own.mkdir(parents=True)
    (own / "task.yaml").write_text(_task(own, "by-job") + "publish: {when: always}\n")
    stage.start("gw-trainer", "trainer", "--data", str(own.parent))
    submitted = stage.do(team, "studio", "submit", str(own / "task.yaml"), "--publish", "--json")
    stage.do(team, "studio", "watch", json.loads(submitted)["job"], says="and published", timeout_s=900)
    stage.do(team, "send", "/shop/by-job", "bad parcel 3")
    stage.do(team, "studio", "versions", "/shop/by-job", says="soft-prompt")


def _task(folder: Path, endpoint: str, *, models: Path | None = None) -> str:
    """A task whose rows are written into the folder. models: a file of model manifests; None: the catalogue's."""
    # Rows of its own to score on: without them, everything is trained once for each fold.
    for file, first, last in (("rows", 0, 30), ("eval", 30, 45)):
        rows = [{"text": f"{word} parcel {n}", "label": label} for n in range(first, last) for word, label in _WORDS]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return _TASK.format(endpoint=endpoint) + (f"models: {models}\n" if models else "")


_WORDS: Final = (("good", "positive"), ("bad", "negative"))
_TASK: Final = """\
kind: task/v1
namespace: shop
endpoint: {endpoint}
model_sizes: [small]
data: {{train: rows.jsonl, eval: eval.jsonl}}
instruction: Say whether the message is positive or negative.
output: {{type: choice, labels: [positive, negative]}}
prompts: {{validation_rows: 8, own_proposals: 0}}
methods: [{{form: soft_prompt}}]
stop: {{max_steps: 4}}
"""


def main() -> None:
    if not os.environ.get("KAFKA_HOME"):
        raise SystemExit("set KAFKA_HOME to an unpacked Apache Kafka")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, SecuredCluster.up(Path(folder) / "kafka") as secured:
        stage = Stage(secured, Path(folder))
        try:
            set_up(stage)
            demo(stage)
            readme(stage)
        finally:
            stage.stop()
    print(f"all of it in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
