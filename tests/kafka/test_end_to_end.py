"""An event in, a typed result out: on a real broker, with the real model."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kafka.conftest import DEMO, ROOT, System

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.kafka_client import make_consumer, make_producer, started
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import dead_letter_topic, event_topic, reply_topic, request_topic
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.wire import REPLY
from guideway.usecases.apply import apply_manifests
from guideway.usecases.supervise import EXIT_UNAVAILABLE
from guideway.workers.messages.from_engine import BatchReport

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

ENDPOINTS = [one.manifest for one in read_manifests(DEMO) if isinstance(one.manifest, Endpoint)]
SENTENCES = [
    "Is the Earth round?",
    "The soup was cold and 2 of us cared.",
    "a small tree with 5 white flowers",
    "Oslo 1",
]


def has_type(value: Any, rule: OutputRule) -> bool:  # noqa: PLR0911 (one for each type)
    """Whether a value is of the declared type; written apart from the code that made it."""
    match rule:
        case Text():
            return isinstance(value, str)
        case Choice():
            return value in rule.labels
        case Boolean():
            return isinstance(value, bool)
        case Number():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case WordLabels():
            return isinstance(value, list) and all(len(pair) == 2 and pair[1] in rule.labels for pair in value)
        case Json():
            return isinstance(value, dict) and set(rule.schema["required"]) <= set(value)
        case Regex():
            return len(value) == 4 and value.isdigit()


async def test_500_events_of_all_endpoints_at_once_give_500_typed_replies(client: Client) -> None:
    product = itertools.cycle(itertools.product(ENDPOINTS, SENTENCES))
    # Of a text without a number the model writes digits without end, which is refused.
    events = [
        (endpoint, SENTENCES[2] if isinstance(endpoint.output, Number) and not re.search("[0-9]", text) else text)
        for endpoint, text in itertools.islice(product, 500)
    ]
    replies = await asyncio.gather(*(client.submit(endpoint.address, text, timeout_s=380) for endpoint, text in events))
    assert len(replies) == 500
    for (endpoint, text), reply in zip(events, replies, strict=True):
        assert isinstance(reply, Completed), (endpoint.address, text, reply)
        assert has_type(reply.value, endpoint.output), (endpoint.address, reply.value)
        if isinstance(endpoint.output, WordLabels):
            assert [word for word, _ in reply.value] == text.split()


async def test_one_micro_batch_holds_three_namespaces_and_four_kinds_of_guidance(
    system: System, client: Client
) -> None:
    wanted = ["/public/fact-for-children", "/reviews/sentiment-both", "/library/topic", "/public/fact-yes-no"] * 3
    await asyncio.gather(*(client.submit(address, "Is the Earth round?") for address in wanted))
    batches = [msgspec.json.decode(line, type=BatchReport) for line in system.batches.read_bytes().splitlines()]
    kinds = max(
        (
            {entry.split()[0] for row in batch.rows for entry in row.guidance}
            for batch in batches
            if len({row.namespace for row in batch.rows}) >= 3
        ),
        key=len,
    )
    assert kinds >= {"soft_prompt", "lora", "text_prompt", "grammar"}


async def test_samples_are_drawn_apart_and_drawn_again_the_same(client: Client) -> None:
    first, second = await asyncio.gather(*(client.submit("/trial/drawn", "Tell me a story.") for _ in range(2)))
    assert isinstance(first, Completed)
    assert isinstance(second, Completed)
    texts = [sample.text for sample in first.samples]
    assert len(set(texts)) == 3
    assert texts == [sample.text for sample in second.samples]


async def test_a_request_may_bring_guidance_where_the_endpoint_allows_it(client: Client) -> None:
    reply = await client.submit("/public/fact-sentence", "Why is the sky blue?", guidance=["public/for-children"])
    assert isinstance(reply, Completed)
    assert reply.guidance == ["public/for-children@1"]
    refused = await client.submit("/public/fact-yes-no", "Is it?", guidance=["public/for-children"])
    assert isinstance(refused, Failed)
    assert refused.code is FailureCode.GUIDANCE_FORBIDDEN


async def test_a_target_gets_the_result_as_well(system: System, client: Client) -> None:
    reader = make_consumer(system.cluster, "test", auto_offset_reset="earliest")
    async with started(reader, system.cluster) as consumer:
        consumer.subscribe([reply_topic("trial", "copies")])
        reply = await client.submit("/trial/plain", "Hello", request_id="to-both")
        while True:
            record = await asyncio.wait_for(consumer.getone(), 20)
            if (copy := REPLY.decode(record.value)).id == "to-both":
                assert copy == reply
                return


Headers = dict[str, bytes]
REFUSED = FailureCode.REPLY_ADDRESS_REFUSED
BAD_INPUTS: list[tuple[str, str, bytes | None, Headers, FailureCode]] = [
    ("no JSON", "typed", b"{oops", {}, FailureCode.UNDECODABLE_EVENT),
    ("no UTF-8", "typed", b"\xff\xfe\xfd", {}, FailureCode.UNDECODABLE_EVENT),
    ("null", "typed", None, {}, FailureCode.UNDECODABLE_EVENT),
    ("deep JSON", "typed", b"[" * 100_000, {"content-type": b"application/json"}, FailureCode.UNDECODABLE_EVENT),
    ("foreign content", "typed", b"x", {"content-type": b"image/png"}, FailureCode.UNDECODABLE_EVENT),
    ("missing field", "typed", b'{"text": "a"}', {}, FailureCode.MISSING_FIELD),
    ("unknown field", "typed", b'{"text": "a", "n": 1, "x": 1}', {}, FailureCode.UNKNOWN_FIELD),
    ("wrong type", "typed", b'{"text": "a", "n": "one"}', {}, FailureCode.WRONG_FIELD),
    ("field too long", "typed", b'{"text": "' + b"a" * 51 + b'", "n": 1}', {}, FailureCode.TEXT_TOO_LONG),
    ("text too long", "plain", b"a" * 20_001, {}, FailureCode.TEXT_TOO_LONG),
    ("more tokens than the model has", "long", b"word " * 3000, {}, FailureCode.TEXT_TOO_LONG),
    ("unknown endpoint", "gone", b"hello", {}, FailureCode.UNKNOWN_ENDPOINT),
    ("unknown model size", "huge", b"hello", {}, FailureCode.UNKNOWN_MODEL_SIZE),
    ("unsatisfiable schema", "unsatisfiable", b"hello", {}, FailureCode.OUTPUT_UNSATISFIABLE),
    ("broken regular expression", "unclosed", b"hello", {}, FailureCode.OUTPUT_UNSATISFIABLE),
    ("too few tokens for the form", "cut", b"hello", {}, FailureCode.OUTPUT_INCOMPLETE),
    ("passed deadline", "plain", b"hello", {"deadline": b"1700000000000"}, FailureCode.DEADLINE_EXCEEDED),
    ("no deadline", "plain", b"hello", {"deadline": b"soon"}, FailureCode.INVALID_HEADER),
    ("vanished artefact", "with-vanished", b"hello", {}, FailureCode.GUIDANCE_MISSING),
    ("damaged artefact", "with-damaged", b"hello", {}, FailureCode.GUIDANCE_DAMAGED),
    ("artefact of another width", "with-narrow", b"hello", {}, FailureCode.GUIDANCE_DAMAGED),
    ("artefact of another model", "with-foreign", b"hello", {}, FailureCode.GUIDANCE_WRONG_MODEL),
    ("unknown guidance", "with-nothing", b"hello", {}, FailureCode.GUIDANCE_UNKNOWN),
    ("another team's guidance", "with-theirs", b"hello", {}, FailureCode.GUIDANCE_FORBIDDEN),
    ("guidance not allowed", "plain", b"hello", {"guidance": b"trial/noise"}, FailureCode.GUIDANCE_FORBIDDEN),
    ("reply to another namespace", "plain", b"hi", {"reply_to": b"gw.public.fact-yes-no.out.v1"}, REFUSED),
    ("reply to the model", "plain", b"hi", {"reply_to": b"gw.infer.small.interactive.v1"}, REFUSED),
    ("reply to nowhere", "plain", b"hi", {"reply_to": b"gw.trial.nowhere.out.v1"}, REFUSED),
]  # fmt: skip


async def test_bad_input_gets_its_code_and_the_worker_serves_on(system: System, client: Client) -> None:
    """All at once, among good events; each answered once on the endpoint's own reply topic."""
    answers: dict[str, list[Failed | Completed]] = {str(number): [] for number in range(len(BAD_INPUTS))}
    replies = {reply_topic("trial", endpoint) for _, endpoint, *_ in BAD_INPUTS}
    reader = make_consumer(system.cluster, "test", auto_offset_reset="latest")
    writer = make_producer(system.cluster, "test")
    async with started(reader, system.cluster) as consumer, started(writer, system.cluster) as producer:
        consumer.subscribe(sorted(replies))
        await consumer.getmany(timeout_ms=2000)
        for number, (_, endpoint, value, headers, _) in enumerate(BAD_INPUTS):
            ours = [(header.CORRELATION_ID, str(number).encode()), *headers.items()]
            await producer.send(event_topic("trial", endpoint), value=value, key=b"k", headers=ours)
        good = asyncio.gather(*(client.submit("/trial/plain", "Hello") for _ in range(5)))
        for _ in range(60):
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                for record in batch:
                    number = dict(record.headers).get(header.CORRELATION_ID, b"").decode()
                    if number in answers:
                        answers[number].append(REPLY.decode(record.value))
            if all(answers.values()) and good.done():
                break
        assert all(isinstance(reply, Completed) for reply in await good)
    told = {
        what: [reply.code if isinstance(reply, Failed) else "completed" for reply in answers[str(number)]]
        for number, (what, *_) in enumerate(BAD_INPUTS)
    }
    assert told == {what: [code] for what, _, _, _, code in BAD_INPUTS}
    for replied in answers.values():
        for reply in replied:
            assert isinstance(reply, Failed)
            assert len(reply.message) > 20, "a sentence"
            assert "Traceback" not in reply.message


async def test_where_there_is_none_to_reply_to_a_dead_letter_tells(system: System) -> None:
    """Bytes on a request topic that are no request: nobody can be answered."""
    topic = request_topic("small", "batch")
    reader = make_consumer(system.cluster, "test", auto_offset_reset="latest")
    writer = make_producer(system.cluster, "test")
    async with started(reader, system.cluster) as consumer, started(writer, system.cluster) as producer:
        consumer.subscribe([dead_letter_topic(topic)])
        await consumer.getmany(timeout_ms=2000)
        await producer.send_and_wait(topic, value=b"\x00nonsense", key=b"k", headers=[("mine", b"\xff\x00")])
        record = await asyncio.wait_for(consumer.getone(), 60)
    headers = dict(record.headers)
    assert (record.key, record.value, headers["mine"]) == (b"k", b"\x00nonsense", b"\xff\x00")
    assert headers["guideway_dlq_code"] == b"undecodable_request"
    assert headers["guideway_dlq_topic"] == headers["__connect.errors.topic"] == topic.encode()


@pytest.mark.parametrize(
    ("command", "status"), [("get", 1), ("send /public/fact-yes-no x", 1), ("worker --no-restart", EXIT_UNAVAILABLE)]
)
def test_an_unreachable_broker_is_said_in_one_line(tmp_path: Path, command: str, status: int) -> None:
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "GUIDEWAY_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "guideway", *command.split()],
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == status
    (line,) = run.stderr.splitlines()
    assert line.startswith("broker_unreachable: no answer from the brokers at 127.0.0.1:1")


def children(pid: int, program: str = "") -> list[int]:
    """Processes that `pid` has started; those whose command names `program`."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if program in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.parametrize("victim", ["engine", "retrieval", "worker", "endpoints"])
async def test_a_process_killed_with_9_is_replaced_and_nothing_is_lost(
    system: System, client: Client, victim: str
) -> None:
    supervisor = system.processes["endpoints" if victim == "endpoints" else "worker"].pid
    (process,) = children(supervisor)
    if victim in {"engine", "retrieval"}:
        (process,) = children(process, victim)
    ids = [f"{victim}{number}" for number in range(24)]
    address = "/public/ask-plain" if victim == "retrieval" else "/public/fact-sentence"
    work = [asyncio.create_task(client.submit(address, f"Why {one}?", request_id=one)) for one in ids]
    await asyncio.sleep(1.0 if victim != "retrieval" else 0.1)
    os.kill(process, signal.SIGKILL)
    replies = await asyncio.wait_for(asyncio.gather(*work), 200)
    assert all(isinstance(reply, Completed) for reply in replies)
    assert Counter(reply.id for reply in replies) == Counter(ids)
    assert process not in [*children(supervisor), *(one for child in children(supervisor) for one in children(child))]
    log = (system.home / f"{'endpoints' if victim == 'endpoints' else 'worker'}.log").read_text()
    told = {
        "engine": "request was in an engine that died",
        "retrieval": "the retrieval process ended",
        "worker": "what it had begun and not published is worked on again",
        "endpoints": "",
    }
    assert told[victim] in log, "the log tells what was repeated"


async def streamed(client: Client, endpoint: str, text: str) -> tuple[list[Partial], Completed]:
    *pieces, reply = [one async for one in client.stream(f"/trial/{endpoint}", text, timeout_s=200)]
    assert isinstance(reply, Completed), reply
    return [piece for piece in pieces if isinstance(piece, Partial)], reply


async def test_a_text_is_told_while_it_is_made(client: Client) -> None:
    for endpoint in ("told", "told-form"):
        pieces, reply = await streamed(client, endpoint, "Why is the sky blue?")
        assert "".join(piece.text for piece in pieces) == reply.samples[0].text
        assert reply.partials is not None
        assert reply.partials.pieces == [len(pieces)]
        assert len(pieces) > 3


async def test_a_text_is_begun_again_where_the_worker_is_killed_with_9(system: System, client: Client) -> None:
    supervisor = system.processes["worker"].pid
    killed, pieces = 0, []
    async for one in client.stream("/trial/told-lengthy", "Write letters.", timeout_s=200):
        if not isinstance(one, Partial):
            break
        pieces.append(one)
        if len(pieces) == 3:
            (killed,) = children(supervisor)
            os.kill(killed, signal.SIGKILL)
    assert killed
    assert isinstance(one, Completed)
    attempts = sorted({piece.attempt for piece in pieces})
    assert len(attempts) == 2
    assert one.partials is not None
    assert one.partials.attempt == attempts[-1]
    texts = ["".join(piece.text for piece in pieces if piece.attempt == attempt) for attempt in attempts]
    assert texts[1] == one.samples[0].text
    assert 0 < len(texts[0]) < len(texts[1])
    assert texts[1].startswith(texts[0]), "greedy: what was begun is made again"


def test_the_command_line_on_a_running_system(system: System) -> None:
    sent = system.command("send", "/public/fact-yes-no", "Is the Earth round?", "--json")
    assert sent.returncode == 0, sent.stderr
    assert isinstance(REPLY.decode(sent.stdout.encode()), Completed)
    told = system.command("send", "--stream", "/trial/told-form", "Good soup.")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["mood"] in {"good", "bad"}
    refused = system.command("send", "/trial/typed", '{"text": "x"}')
    assert (refused.returncode, refused.stderr.split(":")[0]) == (1, "missing_field")
    nowhere = system.command("send", "/trial/nowhere", "x")
    assert (nowhere.returncode, nowhere.stderr.split(":")[0]) == (1, "unknown_endpoint")
    listed = system.command("get", "endpoints", "--json")
    known = [msgspec.json.decode(line)["manifest"]["name"] for line in listed.stdout.splitlines()]
    assert {"fact-yes-no", "sentiment", "topic"} <= set(known)
    told = system.command("describe", "endpoint", "public/fact-yes-no")
    assert "spelling: yes/no" in told.stdout
    absent = system.command("delete", "endpoint", "public/fact-yes-no@99")
    assert (absent.returncode, absent.stderr.split(":")[0]) == (1, "invalid_setting")
    tail = system.command("tail", "/public/fact-yes-no", "--from-beginning", "-n", "1")
    assert tail.returncode == 0
    _date, _time, request_id, key, value = tail.stdout.split()
    assert (len(request_id), key, value in {"true", "false"}) == (32, "-", True)


async def test_labels_are_calibrated_from_the_first_reply_on_and_for_all_alike(
    system: System, client: Client, tmp_path: Path
) -> None:
    data = ROOT / "examples" / "data"
    labels = "[animal, body, food, location, person, plant, substance, time]"
    fields = f"namespace: calibrated\nmodel_size: small\noutput: {{type: choice, labels: {labels}}}\n"
    asks = 'instruction: "Name the topic: animal, body, food, location, person, plant, substance or time."'
    ways = {
        "none": "off",
        "itself": "auto",
        "texts": "{method: unlabelled, file: texts.jsonl}",
    }
    documents = [f"kind: endpoint/v1\nname: {name}\n{fields}{asks}\ncalibration: {way}\n" for name, way in ways.items()]
    (tmp_path / "endpoints.yaml").write_text("---\n".join(documents), "utf-8")
    train = (data / "wordnet_topics.train.jsonl").read_text("utf-8").split("\n")
    (tmp_path / "texts.jsonl").write_text("\n".join(train[:32]), "utf-8")
    await apply_manifests(system.settings, read_manifests(tmp_path / "endpoints.yaml"))
    rows = [json.loads(line) for line in (data / "wordnet_topics.jsonl").read_text("utf-8").splitlines()]
    replies = await asyncio.gather(
        *(client.submit(f"/calibrated/{name}", row["text"], timeout_s=300) for name in ways for row in rows)
    )
    found = {name: replies[at * len(rows) : (at + 1) * len(rows)] for at, name in enumerate(ways)}
    right = {
        name: sum(reply.value == row["label"] for reply, row in zip(some, rows, strict=True))
        for name, some in found.items()
    }
    told = {name: {reply.calibration for reply in some if isinstance(reply, Completed)} for name, some in found.items()}
    assert told == {"none": {None}, "itself": {"contextual"}, "texts": {"unlabelled"}}
    assert right["texts"] >= right["none"] + 3, right
    assert right["itself"] >= right["none"], right
    async with CatalogueFollower(system.cluster) as reader:
        made = [one for _, one in reader.catalogue if isinstance(one, Calibrated) and one.namespace == "calibrated"]
    assert sorted(one.name for one in made) == ["itself", "texts"]
    shown = system.command("describe", "endpoint", "calibrated/itself")
    assert "method: contextual" in shown.stdout
    assert "animal" in system.command("describe", "calibration", "calibrated/texts").stdout


FRIENDLY = [
    "Thank you so much!",
    "You are wonderful, I love this shop.",
    "The delivery was quick and everything fits.",
    "What a lovely surprise, my kids are happy.",
    "Great service, see you again.",
]
ANGRY = [
    "Where is my parcel? This is the third time I ask!",
    "This is unacceptable, I want my money back now!",
    "You sent the wrong size again and nobody answers.",
    "Worst shop ever, never again.",
    "I am furious, the box arrived broken.",
]


async def test_the_endpoint_of_the_readme_tells_ordinary_texts_apart(
    system: System, client: Client, tmp_path: Path
) -> None:
    (manifest,) = re.findall(r"```yaml\n# mood\.yaml\n(.+?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "mood.yaml").write_text(manifest, "utf-8")
    await apply_manifests(system.settings, read_manifests(tmp_path / "mood.yaml"))
    replies = await asyncio.gather(*(client.submit("/shop/mood", text, timeout_s=120) for text in [*FRIENDLY, *ANGRY]))
    right = [reply.value == label for reply, label in zip(replies, ["positive"] * 5 + ["negative"] * 5, strict=True)]
    assert sum(right) >= 9
