"""What team A tries with training jobs, which it writes by hand: each ends with a code, and reads nothing of others.

The trainer is a process with rights of its own, which may read all catalogues and the whole store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.secured.services.ground import SECRET, SIZE
from tests.secured.services.world import World

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.archive.rows import Row
from guideway.schemas.names.service_topics import training_events_topic, training_topic
from guideway.schemas.output import Choice
from guideway.training.jobs.messages import JOB, JOB_NEWS, Job, JobEnded
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data

TOPIC: Final = training_topic("a")
_PASSWD: Final = Path("/etc/passwd")

JOBS: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "train an endpoint of B's": ({"namespace": "b", "endpoint": "private"}, "not_allowed"),
    "train an endpoint of public": ({"namespace": "public", "endpoint": "echo"}, "not_allowed"),
    "read a file of the trainer's machine": ({"train": "/etc/passwd"}, "not_allowed"),
    "report on a file of the trainer's machine": ({"eval": "/etc/passwd"}, "not_allowed"),
    "read the trainer's own standard input": ({"train": "/dev/stdin"}, "not_allowed"),
    "read B's rows": ({"train": "{data}/b/rows.jsonl"}, "not_allowed"),
    "climb to B's rows": ({"train": "{data}/a/../b/rows.jsonl"}, "not_allowed"),
    "read B's rows through a link": ({"train": "{data}/a/link.jsonl"}, "not_allowed"),
    "read B's rows through a linked folder": ({"train": "{data}/a/folder/rows.jsonl"}, "not_allowed"),
    "read from a folder that begins as its own does": ({"train": "{data}/ab/rows.jsonl"}, "not_allowed"),
    "read B's artefacts in the store": ({"train": "{store}/b"}, "not_allowed"),
    "learn from B's archive": ({"data": {"archive": "/b/private"}}, "not_allowed"),
    "learn from an archive of public": ({"data": {"archive": {"endpoint": "/public/echo"}}}, "not_allowed"),
    "climb to B's archive": ({"data": {"archive": "/a/../b/private"}}, "undecodable_event"),
    "read B's rows as corrections": (
        {"data": {"archive": {"endpoint": "/a/taught", "corrections": "{data}/b/rows.jsonl"}}}, "not_allowed"
    ),
    "read from the network": ({"train": "https://example.com/rows.jsonl"}, "not_allowed"),
    "bring a model of its own": ({"models": "{data}/a/models.yaml"}, "not_allowed"),
    "bring a model from a hub": ({"models": "HuggingFaceTB/SmolLM2-135M-Instruct"}, "not_allowed"),
    "name a model size that is a hub's": ({"model_sizes": ["smollm2-135m"]}, "unknown_model_size"),
    "learn with B's set": ({"retrieval": {"sets": ["b/facts"]}}, "guidance_forbidden"),
    "have a folder outside the jobs' folder": ({"id": "../../b/jobs"}, "undecodable_event"),
    "name another endpoint by its path": ({"endpoint": "../b/private"}, "undecodable_event"),
    "publish under a name that climbs": (
        {"methods": [{"form": "soft_prompt", "name": "../../b"}]}, "undecodable_event"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(world: World) -> Mapping[str, JobEnded]:
    """What has become of each job."""
    world.make_facts_of_b()
    data = world.home / "data"
    for owner in ("a", "b", "ab"):
        (data / owner).mkdir(parents=True)
        rows = [{"text": f"{SECRET if owner != 'a' else 'row'} {n}", "label": "xy"[n % 2]} for n in range(300)]
        (data / owner / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "a" / "link.jsonl").symlink_to(data / "b" / "rows.jsonl")
    (data / "a" / "folder").symlink_to(data / "b")
    texts = [
        Row(
            row=f"r{n}",
            id=f"i{n}",
            at_ms=1_767_225_600_000,
            endpoint_version=1,
            text=f"{SECRET} {n}",
            value="xy"[n % 2],
        )
        for n in range(300)
    ]
    Archive(str(world.home / "store"), "b", "private").write(texts, "jsonl")
    ids = {what: f"attack-{number}" for number, what in enumerate(JOBS)}
    places = {"{data}": str(data), "{store}": str(world.home / "store")}
    for what, (fields, _) in JOBS.items():
        world.a.send(TOPIC, _job(ids[what], fields, places), key=ids[what])
    world.start("trainer", "gw-trainer", "-m", "guideway", "trainer", "--no-restart", "--data", str(data))
    found: dict[str, JobEnded] = {}
    deadline = time.monotonic() + 240
    while len(found) < len(JOBS):
        assert time.monotonic() < deadline, (sorted({*ids.values()} - {*found}), world.log("trainer")[-3000:])
        assert world.processes["trainer"].poll() is None, world.log("trainer")[-3000:]
        for message in world.a.read(training_events_topic("a")):
            news = JOB_NEWS.decode(message.value())
            if isinstance(news, JobEnded):
                found[news.job] = news
        time.sleep(0.5)
    return {what: found[id_] for what, id_ in ids.items()}


def _job(id_: str, fields: dict[str, Any], places: Mapping[str, str]) -> bytes:
    task = Task(
        namespace="a",
        endpoint="taught",
        model_sizes=[SIZE],
        data=Data(train=f"{places['{data}']}/a/rows.jsonl"),
        output=Choice(["x", "y"]),
    )
    job = msgspec.to_builtins(msgspec.json.decode(JOB.encode(Job(id=id_, task=task, publish=True))))
    text = json.dumps(fields)
    for place, path in places.items():
        text = text.replace(place, path)
    for name, value in json.loads(text).items():
        where = job if name == "id" else job["task"]["data"] if name in ("train", "eval") else job["task"]
        where[name] = value
    return json.dumps(job).encode()


@pytest.mark.parametrize("what", JOBS)
def test_a_job_is_refused(ended: Mapping[str, JobEnded], what: str) -> None:
    one = ended[what]
    assert (one.outcome, one.published) == ("failed", False)
    assert one.code == JOBS[what][1], one.message
    assert SECRET not in one.message


def test_nothing_of_others_was_read_told_or_published(world: World, ended: Mapping[str, JobEnded]) -> None:
    told = b"".join(message.value() or b"" for message in world.a.read(training_events_topic("a")))
    told += b"".join(one.read_bytes() for one in (world.home / "gw-trainer" / "jobs").rglob("*") if one.is_file())
    told += world.log("trainer").encode()
    assert SECRET.encode() not in told
    assert _PASSWD.read_bytes().splitlines()[0] not in told
    assert len(ended) == len(JOBS)
    published = b"".join(message.value() or b"" for message in world.a.read("gw.a.catalogue.v1"))
    assert b"taught" not in published
    assert {one.name for one in (world.home / "gw-trainer" / "jobs").iterdir()} <= {"a"}
