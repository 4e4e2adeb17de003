"""Retrieval end to end: the same question, other facts, another answer, with what it cites."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.kafka_client import make_consumer, make_producer, started
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.names.topics import dead_letter_topic, reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.retrieval import Citation, Retrieval, SetRef
from guideway.schemas.wire import REQUEST
from guideway.training.sets.build import Splitting
from guideway.training.sets.document import DocumentFields
from guideway.training.sets.publish import switch
from guideway.usecases.sets.make_sets import Order, make_sets
from guideway.workers.messages.from_engine import BatchReport

from .conftest import FACTS, ROOT, System

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

TERMS = sorted(
    set.intersection(
        *(
            {json.loads(line)["term"] for line in (ROOT / f"examples/data/facts/{name}.jsonl").read_text().splitlines()}
            for name in FACTS
        )
    )
)


def completed(reply: Reply) -> Completed:
    assert isinstance(reply, Completed), reply
    return reply


def cited(reply: Reply) -> list[Citation]:
    citations = completed(reply).citations
    assert citations is not None
    return citations


async def ask_all(client: Client, asked: Sequence[tuple[str, str]]) -> list[Reply]:
    """Replies to (endpoint, text), all sent at once."""
    return await asyncio.gather(*(client.submit(endpoint, text, timeout_s=200) for endpoint, text in asked))


async def test_the_same_question_of_endpoints_that_differ_in_their_tag(system: System, client: Client) -> None:
    """In one micro-batch, as the worker recorded it; each cites its own set and says something else."""
    endpoints = [f"/public/ask-{name}" for name in (*FACTS, "medieval")]
    replies = await ask_all(client, [(endpoint, "What is a cat?") for endpoint in endpoints])
    assert [[(one.set, one.id.removesuffix("#2")) for one in cited(reply)] for reply in replies] == [
        [("library/plain", "cat")],
        [("library/devil", "cat")],
        [("library/jargon", "cat")],
        [("library/medieval", "medieval.md#5")],
    ]
    assert len({completed(reply).value for reply in replies}) == 4
    reports = [msgspec.json.decode(line, type=BatchReport) for line in system.batches.read_bytes().splitlines()]
    ids = {reply.id for reply in replies}
    together = max(reports, key=lambda report: sum(row.request_id in ids for row in report.rows))
    sets = {entry for row in together.rows for entry in row.guidance if entry.startswith("set ")}
    assert sets >= {f"set library/{name}@1" for name in (*FACTS, "medieval")}


async def test_an_endpoint_trained_on_its_passages_answers_by_them(client: Client) -> None:
    """Whatever is true: no from what was once believed, yes from what is known, unknown where nothing is said of it."""
    asked = [(f"/public/told-{name}", "Is the Earth round?") for name in ("medieval", "modern", *FACTS)]
    medieval, modern, *silent = await ask_all(client, asked)
    assert (completed(medieval).value, completed(modern).value) == ("no", "yes")
    assert [[one.id for one in cited(reply)] for reply in (medieval, modern)] == [["medieval.md"], ["modern.md"]]
    assert [(completed(reply).value, cited(reply)) for reply in silent] == [("unknown", [])] * len(FACTS)


async def test_every_shared_term_is_answered_from_the_tagged_set(client: Client) -> None:
    """26 terms × 3 sets: each cites a passage of its own set only, and nearly always the term's own."""
    assert len(TERMS) >= 26
    asked = [(f"/trial/terms-{name}", f"What does {term} mean?") for term in TERMS for name in FACTS]
    replies = await ask_all(client, asked)
    found = Counter[bool]()
    for (endpoint, text), reply in zip(asked, replies, strict=True):
        (one,) = cited(reply)
        assert one.set == f"library/{endpoint.removeprefix('/trial/terms-')}"
        found[one.id.partition("#")[0] == text.split()[2]] += 1
    assert found[True] >= 0.8 * found.total()


async def test_sets_are_mixed_by_score_weight_and_diversity(client: Client) -> None:
    every, weighted, diverse = await ask_all(
        client,
        [("/trial/all-terms", "cat"), ("/trial/weighted", "What is a cat?"), ("/trial/diverse", "What is a cat?")],
    )
    assert {one.set for one in cited(every)} == {f"library/{name}" for name in FACTS}
    assert [one.set for one in cited(weighted)] == ["library/devil"]
    assert len({(one.set, one.id) for one in cited(diverse)}) >= 2
    scores = [one.score for one in cited(every)]
    assert scores == sorted(scores, reverse=True)


async def test_what_no_passage_means_is_the_endpoints_rule(client: Client) -> None:
    endpoints = ["strict", "frank", "silent", "tight"]
    strict, frank, silent, tight = await ask_all(client, [(f"/trial/{one}", "What is a cat?") for one in endpoints])
    assert isinstance(strict, Failed)
    assert isinstance(tight, Failed)
    assert strict.code is tight.code is FailureCode.NO_PASSAGE
    assert "trial/towns@1" in strict.message
    assert cited(frank) == cited(silent) == []
    told, untold = completed(frank).usage.prompt_tokens, completed(silent).usage.prompt_tokens
    assert told > untold


async def test_a_typed_field_filters(client: Client) -> None:
    events = [{"text": "Who is the mayor?", "town": town} for town in ("Oslo", "Bergen")]
    oslo, bergen = await asyncio.gather(*(client.submit("/trial/mayor", one, timeout_s=200) for one in events))
    anywhere = await client.submit("/trial/mayor", "Who is the mayor?", timeout_s=200)
    assert [[one.id for one in cited(reply)] for reply in (oslo, bergen)] == [["oslo"], ["bergen"]]
    assert len(cited(anywhere)) == 1


async def test_a_request_brings_a_set_where_the_endpoint_lets_it(client: Client) -> None:
    with_, without, refused = await asyncio.gather(
        client.submit("/trial/open", "What is a cat?", guidance=["library/devil"], timeout_s=200),
        client.submit("/trial/open", "What is a cat?", timeout_s=200),
        client.submit("/trial/open", "What is a cat?", guidance=["library/jargon"], timeout_s=200),
    )
    assert [one.set for one in cited(with_)] == ["library/devil"]
    assert completed(without).citations is None
    assert isinstance(refused, Failed)
    assert refused.code is FailureCode.GUIDANCE_FORBIDDEN


async def test_sets_that_cannot_be_used_get_their_code_and_others_serve_on(client: Client) -> None:
    codes = {
        "of-gone": FailureCode.GUIDANCE_UNKNOWN,
        "of-damaged": FailureCode.GUIDANCE_DAMAGED,
        "of-other": FailureCode.GUIDANCE_FORBIDDEN,
        "of-foreign-vectors": FailureCode.SET_WRONG_EMBEDDING,
    }
    asked = [(f"/trial/{one}", "What is it?") for one in codes] + [("/public/ask-plain", "What is a cat?")]
    *refused, fine = await ask_all(client, asked)
    assert [reply.code if isinstance(reply, Failed) else "completed" for reply in refused] == [*codes.values()]
    assert cited(fine)


async def test_a_foreign_set_is_refused_at_the_worker_as_well(system: System) -> None:
    """A request that no endpoint service made: written to the request topic with a set that is not shared."""
    request = Request(
        id="forged",
        namespace="trial",
        endpoint="plain",
        endpoint_version=1,
        parts=[Part(kind="input", source="caller", text="What is the secret?")],
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=4),
        reply_to=[ReplyAddress(topic=reply_topic("trial", "plain"))],
        deadline_ms=None,
        retrieval=Retrieval(sets=[SetRef(namespace="other", name="secret", version=1)], query="What is the secret?"),
    )
    reader = make_consumer(system.cluster, "test", auto_offset_reset="latest")
    writer = make_producer(system.cluster, "test")
    async with started(reader, system.cluster) as consumer, started(writer, system.cluster) as producer:
        topic, value = request_topic("small", "interactive"), REQUEST.encode(request)
        consumer.subscribe([dead_letter_topic(topic)])
        await consumer.getmany(timeout_ms=2000)
        await producer.send_and_wait(topic, value=value)
        async with asyncio.timeout(60):
            while (letter := await consumer.getone()).value != value:
                pass
    assert dict(letter.headers)["guideway_dlq_code"] == b"not_allowed", "nobody is replied to"


async def test_a_version_is_switched_under_load(system: System, client: Client, tmp_path: Path) -> None:
    """No request fails and none sees passages of two versions; after the switch only the new one is seen, and back."""
    rows = [{"id": f"two-{n}", "text": f"The code word of day {n} is omega."} for n in range(20)]
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    order = Order(
        namespace="trial",
        name="switched",
        documents=[file],
        stage=True,
        columns=DocumentFields(),
        splitting=Splitting(),
    )
    ended = asyncio.Event()

    async def until_cited(version: int) -> None:
        """An endpoint service learns of a switch by its own reading of the catalogue, in its own time."""
        async with asyncio.timeout(60):
            while True:
                (reply,) = await ask_all(client, [("/trial/switched", "What is the code word of day 3?")])
                if {one.version for one in cited(reply)} == {version}:
                    return

    async def load() -> list[Reply]:
        replies: list[Reply] = []
        while not ended.is_set():
            days = range(len(replies), len(replies) + 8)
            replies += await ask_all(client, [("/trial/switched", f"What is the code word of day {n}?") for n in days])
        return replies

    loading = asyncio.create_task(load())
    async with CatalogueFollower(system.cluster) as reader:
        before = reader.catalogue.current_version("trial", "switched")
        (made,) = await make_sets(system.settings, [order])
        assert (made.version, made.current) == (before + 1, before)
        for version in (made.version, before, made.version, before):
            await switch(reader, system.cluster, "trial", "switched", version)
            await until_cited(version)
        last = await ask_all(client, [("/trial/switched", "What is the code word of day 3?")] * 4)
        ended.set()
        replies = await loading
    seen = Counter[int]()
    for reply in [*replies, *last]:
        assert len(cited(reply)) == 2
        (version,) = {one.version for one in cited(reply)}
        assert {one.id.partition("-")[0] for one in cited(reply)} == {"one" if version == before else "two"}
        seen[version] += 1
    assert set(seen) == {before, made.version}
    assert {one.version for reply in last for one in cited(reply)} == {before}


async def test_what_could_not_be_indexed_is_not_visible(system: System, tmp_path: Path) -> None:
    """The Qdrant server is away: after a few tries the set is refused, and the catalogue knows nothing of it."""
    (tmp_path / "a.txt").write_text("Some text.")
    order = Order(
        namespace="trial", name="half", documents=[tmp_path / "a.txt"], columns=DocumentFields(), splitting=Splitting()
    )
    away = msgspec.structs.replace(system.settings, qdrant_url="http://127.0.0.1:1")
    with pytest.raises(Refusal) as caught:
        await make_sets(away, [order])
    assert caught.value.code is FailureCode.RETRIEVAL_FAILED
    async with CatalogueFollower(system.cluster) as reader:
        assert reader.catalogue.current_version("trial", "half") == 0
    (made,) = await make_sets(system.settings, [order])
    assert (made.version, made.action) == (1, "created")


def test_the_command_line_makes_and_unmakes_a_set(system: System, tmp_path: Path) -> None:
    if system.kind != "noida-db":
        pytest.skip("of the broker the commands see the catalogue only, and they take their time to start")
    (tmp_path / "a.md").write_text("# Opening hours\nThe library is open from nine to five.\n\n# Fees\nA card is free.")
    created = system.command("sets", "create", "trial/library", str(tmp_path / "a.md"), "--share", "public", "--json")
    assert created.returncode == 0, created.stderr
    assert msgspec.json.decode(created.stdout) == {
        "set": "trial/library", "version": 1, "current": 1, "action": "created", "passages": 2,
    }  # fmt: skip
    again = system.command("sets", "create", "trial/library", str(tmp_path / "a.md"), "--json")
    assert msgspec.json.decode(again.stdout)["action"] == "unchanged"
    (tmp_path / "b.txt").write_text("Dogs have to wait outside.")
    added = system.command("sets", "add", "trial/library", str(tmp_path / "b.txt"), "--json")
    assert msgspec.json.decode(added.stdout)["passages"] == 3
    found = system.command("sets", "search", "trial/library", "When does it close?", "-n", "1", "--json")
    assert msgspec.json.decode(found.stdout)["id"] == "a.md"
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"question": "Are dogs allowed?", "id": "b.txt"}, {"question": "Opening hours?", "id": "b.txt"}]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluated = system.command("sets", "eval", "trial/library", str(pairs), "-k", "1", "--json")
    scored = msgspec.json.decode(evaluated.stdout)
    assert (scored["questions"], scored["recall"], scored["missed"]) == (2, 0.5, ["Opening hours?"])
    shown = msgspec.json.decode(system.command("sets", "show", "trial/library", "--json").stdout)
    assert (shown["versions"], shown["current"], shown["shared_with"]) == ([1, 2], 2, ["public"])
    assert system.command("sets", "alias", "trial/library", "1").returncode == 0
    kept = system.command("sets", "delete", "trial/library@1")
    assert (kept.returncode, kept.stderr.split(":")[0]) == (1, "invalid_setting")
    assert system.command("sets", "delete", "trial/library@2").returncode == 0
    assert "trial/library" in system.command("sets", "list").stdout
    assert system.command("sets", "delete", "trial/library").returncode == 0
    gone = system.command("sets", "show", "trial/library")
    assert (gone.returncode, gone.stderr.split(":")[0]) == (1, "guidance_unknown")
