"""Lookups on the real embedding model and Qdrant: batched, kept, filtered, and refused one by one."""

from __future__ import annotations

import itertools
import queue
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.request import Part
from guideway.schemas.retrieval import Condition, Retrieval, RetrievalRule, SetRef
from guideway.training.data.examples import Example
from guideway.training.sets.context import RetrievalContext
from guideway.training.sets.evaluate import Searched
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_retrieval import Embedded, Found
from guideway.workers.messages.to_retrieval import Embed, Lookup, SetArtefact
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.index import Index, Qdrant
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.lookups import Lookups
from guideway.workers.retrieval.passages import with_context
from guideway.workers.retrieval.set_folder import SetFolder

from .conftest import MakeSet, a_set

ANIMALS = {
    "cat": "A cat is a small animal that says miaow.",
    "dog": "A dog is one that barks.",
    "cow": "A cow gives milk.",
}
TOOLS = {"cat": "cat is a Unix program that prints files.", "ls": "ls is a Unix program that lists a folder."}


Asked = tuple[str, list[SetArtefact], dict[str, Any]]
"""Query, sets, and what else the lookup says."""


class Desk:
    """Lookups with all that they need; `ask` waits until every answer is there."""

    def __init__(
        self, embedder: Embedder, qdrant: Qdrant | None = None, max_bytes: int = 2**30, kept_bytes: int = 2**20
    ) -> None:
        self.opened: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.embedded: list[int] = []
        """How many texts each batch had."""
        self._ids = itertools.count()
        self._embedder = embedder
        self.fingerprint = embedder.fingerprint
        self.indexes = Indexes(qdrant or Qdrant(), max_bytes, lambda: self.opened.put(None))
        self._lookups = Lookups(self, self.indexes, lambda text: len(text.split()), kept_bytes=kept_bytes)  # type: ignore[arg-type]

    def embed(self, texts: list[str]) -> Any:
        self.embedded.append(len(texts))
        return self._embedder.embed(texts)

    def ask(self, *asked: Asked) -> list[Found | Refused]:
        ids = []
        for query, artefacts, fields in asked:
            sets = [SetRef(namespace="team", name=one.name[5:-2], version=1) for one in artefacts]
            ids.append(str(next(self._ids)))
            wanted = Retrieval(sets=sets, query=query, **fields)
            self._lookups.add(Lookup(id=ids[-1], wanted=wanted, artefacts=artefacts))
        answers: dict[str, Found | Refused] = {}
        while answers.keys() != {*ids}:
            answers |= {one.id: one for one in self._lookups.answer()}
            if answers.keys() != {*ids}:
                self.opened.get(timeout=30)
        return [answers[id_] for id_ in ids]

    def embedded_of(self, *texts: list[str]) -> list[Embedded | Refused]:
        return self._lookups.embedded([Embed(id=str(number), texts=some) for number, some in enumerate(texts)])


def ids(answer: Found | Refused) -> list[str]:
    assert isinstance(answer, Found), answer
    return [one.id for one in answer.passages]


def code(answer: Found | Refused) -> FailureCode:
    assert isinstance(answer, Refused), answer
    return answer.code


def test_what_waits_is_embedded_once_and_in_one_batch(embedder: Embedder, make_set: MakeSet) -> None:
    desk, animals, tools = Desk(embedder), make_set("animals", ANIMALS), make_set("tools", TOOLS)
    cat = "What is a cat?"
    asked: list[Asked] = [(cat, [animals], {}), (cat, [tools], {}), ("Who barks?", [animals], {})]
    desk.ask(("to open them", [animals, tools], {}))
    first, second, third = desk.ask(*asked)
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert first.passages[0].text == ANIMALS["cat"]
    assert second.passages[0].text == TOOLS["cat"]
    assert ids(third)[0] == "dog"
    assert desk.embedded == [1, 2]
    assert [ids(one) for one in desk.ask(*asked)] == [ids(one) for one in (first, second, third)]
    assert desk.embedded == [1, 2], "kept by set version and query"


def test_results_are_kept_within_their_bytes(embedder: Embedder, make_set: MakeSet) -> None:
    animals = make_set("animals", ANIMALS)
    desk = Desk(embedder, kept_bytes=4_000)
    for query in ("cat", "cat", "x" * 3_000, "x" * 3_000, "cat", "y" * 5_000, "y" * 5_000, "cat"):
        assert len(ids(desk.ask((query, [animals], {"min_score": -1.0}))[0])) == 3
    # The first long one drives out the short one; the longer one is not kept at all, and drives out nothing.
    assert desk.embedded == [1, 1, 1, 1, 1]


def test_an_index_counts_all_that_its_passages_hold(embedder: Embedder) -> None:
    plain = a_set(embedder, ANIMALS)
    laden = [msgspec.structs.replace(one, metadata={"note": "ö" * 10_000}) for one in plain.passages]

    def opened(content: SetFolder) -> Index:
        return Qdrant().open("sha256:x", len(ANIMALS), lambda: content)

    more = opened(msgspec.structs.replace(plain, passages=laden)).bytes - opened(plain).bytes
    assert more > 3 * 19_000


def test_scores_are_cosines(embedder: Embedder, make_set: MakeSet) -> None:
    (found,) = Desk(embedder).ask(("What is a cat?", [make_set("animals", ANIMALS)], {"min_score": -1.0}))
    assert isinstance(found, Found)
    query = embedder.embed(["What is a cat?"])[0]
    for one in found.passages:
        assert one.score == pytest.approx(float(query @ embedder.embed([one.text])[0]), abs=2e-3)


def test_several_sets_are_merged_and_named(embedder: Embedder, make_set: MakeSet) -> None:
    both = [make_set("animals", ANIMALS), make_set("tools", TOOLS)]
    (found,) = Desk(embedder).ask(("cat", both, {"passages": 2, "diversity": 0.3}))
    assert isinstance(found, Found)
    assert {(one.set, one.id) for one in found.passages} == {(0, "cat"), (1, "cat")}


def test_what_is_found_does_not_depend_on_who_waits_beside_it(embedder: Embedder, make_set: MakeSet) -> None:
    long = {f"cat{i}": f"A cat is a cat, and this one is cat number {i}." for i in range(4)}
    pets = make_set("pets", {**long, "fits": "Milk is white."})
    # One passage is asked for, so four are looked at, and none of these fits.
    narrow: Asked = ("cat", [pets], {"passages": 1, "max_tokens": 5, "min_score": -1.0})
    wide: Asked = ("milk", [pets], {"passages": 3, "max_tokens": 5, "min_score": -1.0})
    alone, _ = Desk(embedder).ask(narrow, ("to open it", [pets], {"passages": 1}))
    beside, other = Desk(embedder).ask(narrow, wide)
    assert (ids(alone), ids(beside), ids(other)) == ([], [], ["fits"])


def test_filters_hold_and_one_is_not_true(embedder: Embedder, make_set: MakeSet) -> None:
    animals = make_set("animals", ANIMALS)
    desk, everything = Desk(embedder), {"passages": 3, "min_score": -1.0}

    def where(key: str, value: int | bool) -> Asked:
        return ("animal", [animals], {"filter": [Condition(key=key, value=value)], **everything})

    answers = desk.ask(
        where("long", True), where("long", False), where("length", 17), where("length", 1), where("x", 1)
    )
    assert [sorted(ids(one)) for one in answers] == [["cat"], ["cow", "dog"], ["cow"], [], []]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (2024, ["int", "text"]),
        ("2024", ["int", "text"]),
        (7, ["seven"]),
        ("007", ["agent"]),
        (True, ["TRUE", "true"]),
        ("true", ["true"]),
        ("TRUE", ["TRUE", "true"]),
        (False, ["false"]),
        ("oslo", ["list"]),
        (2**63 - 1, []),
    ],
)
def test_a_filter_finds_a_value_however_its_file_wrote_it(
    embedder: Embedder, tmp_path: Path, asked: int | str | bool, found: list[str]
) -> None:
    values: dict[str, Any] = {
        "int": 2024,
        "text": "2024",
        "seven": 7,
        "agent": "007",
        "TRUE": "TRUE",
        "true": True,
        "false": "false",
        "list": ["oslo", "rome"],
    }
    facts = a_set(embedder, {name: f"Fact {name}." for name in values})
    told = [msgspec.structs.replace(one, metadata={"value": values[one.id]}) for one in facts.passages]
    set_folder.write(tmp_path / "facts", facts.info, told, facts.vectors)
    artefact = SetArtefact(
        name="team/facts@1",
        digest="sha256:facts",
        folder=str(tmp_path / "facts"),
        passages=len(values),
        fingerprint=embedder.fingerprint,
    )
    (answer,) = Desk(embedder).ask(
        ("fact", [artefact], {"filter": [Condition(key="value", value=asked)], "passages": 9, "min_score": -1.0})
    )
    assert sorted(ids(answer)) == sorted(found)


def test_where_a_filter_keeps_everything_out_the_refusal_says_so() -> None:
    sets = [SetRef(namespace="team", name="facts", version=1)]
    wanted = Retrieval(sets=sets, query="q", if_none="refuse", filter=[Condition(key="yaer", value=1)])
    with pytest.raises(Refusal) as caught:
        with_context([], wanted, [])
    assert "passes the filter (metadata 'yaer')" in caught.value.message
    assert "min_score" not in caught.value.message
    with pytest.raises(Refusal, match="min_score"):
        with_context([], msgspec.structs.replace(wanted, filter=[]), [])


def test_a_lookup_that_fails_is_no_others_failure(embedder: Embedder, make_set: MakeSet, tmp_path: Path) -> None:
    animals, broken = make_set("animals", ANIMALS), make_set("broken", TOOLS)
    Path(broken.folder, "vectors.safetensors").write_bytes(b"no tensors")
    gone = msgspec.structs.replace(animals, digest="sha256:gone", folder=str(tmp_path / "gone"))
    foreign = SetArtefact(name="team/foreign@1", digest="sha256:f", folder="", passages=1, fingerprint="sha256:other")
    answers = Desk(embedder).ask(
        ("cat", [broken], {}), ("cat", [animals], {}), ("cat", [gone], {}), ("cat", [animals, foreign], {})
    )
    assert code(answers[0]) is FailureCode.GUIDANCE_DAMAGED
    assert ids(answers[1])[0] == "cat"
    assert code(answers[2]) is FailureCode.GUIDANCE_DAMAGED
    assert code(answers[3]) is FailureCode.SET_WRONG_EMBEDDING


class Fragile:
    """The embedding model, which chokes on one word."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.fingerprint = embedder.fingerprint

    def embed(self, texts: list[str]) -> Any:
        if any("poison" in text for text in texts):
            raise RuntimeError(f"it chokes on {texts}")
        return self._embedder.embed(texts)


def test_what_goes_wrong_unexpectedly_is_refused_alone(
    embedder: Embedder, make_set: MakeSet, capfd: pytest.CaptureFixture[str]
) -> None:
    animals = make_set("animals", ANIMALS)
    # No message brings such a key, and the index cannot make anything of it.
    odd = {"filter": [Condition(key="a[", value=1)]}
    answers = Desk(Fragile(embedder)).ask(  # type: ignore[arg-type]
        ("Who barks?", [animals], {}), ("poison", [animals], {}), ("cat", [animals], odd), ("cat", [animals], {})
    )
    assert ids(answers[0])[0] == "dog"
    assert code(answers[1]) is FailureCode.INTERNAL_ERROR
    assert code(answers[2]) is FailureCode.INTERNAL_ERROR
    assert ids(answers[3])[0] == "cat"
    assert "Who barks" not in "".join(capfd.readouterr()), "a message may quote the text"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(odd["filter"][0]), Condition)


def test_a_server_that_is_away_is_waited_for_so_long_and_no_longer(embedder: Embedder, make_set: MakeSet) -> None:
    began = time.monotonic()
    (answer,) = Desk(embedder, Qdrant("http://127.0.0.1:1")).ask(("cat", [make_set("animals", ANIMALS)], {}))
    assert code(answer) is FailureCode.RETRIEVAL_FAILED
    assert time.monotonic() - began < 20


def test_indexes_are_kept_by_last_use_within_their_bytes(embedder: Embedder, make_set: MakeSet) -> None:
    animals, tools = make_set("animals", ANIMALS), make_set("tools", TOOLS)
    desk = Desk(embedder, max_bytes=1)
    assert ids(desk.ask(("cat", [animals], {}))[0])[0] == "cat"
    assert desk.indexes.get(animals) is not None, "the one in use stays, whatever its size"
    assert ids(desk.ask(("cat", [tools], {}))[0])[0] == "cat"
    assert desk.indexes.get(animals) is None
    assert ids(desk.ask(("Who barks?", [animals], {}))[0])[0] == "dog"


def test_a_set_folder_that_is_not_whole_is_damaged(embedder: Embedder, tmp_path: Path) -> None:
    content = a_set(embedder, ANIMALS)
    set_folder.write(tmp_path, content.info, content.passages, content.vectors)
    again = set_folder.read(tmp_path)
    assert (again.info, again.passages) == (content.info, content.passages)
    np.testing.assert_allclose(again.vectors, content.vectors, atol=1e-3)
    set_folder.write(tmp_path, content.info, content.passages[:2], content.vectors)
    with pytest.raises(Refusal) as caught:
        set_folder.read(tmp_path)
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


def test_rows_to_train_on_have_the_context_that_a_worker_gives(embedder: Embedder, make_set: MakeSet) -> None:
    rule = RetrievalRule(sets=["team/animals", "team/tools"], passages=2, max_tokens=30, diversity=0.4)
    artefacts = [make_set("animals", ANIMALS), make_set("tools", TOOLS)]
    refs = [SetRef(namespace="team", name=name, version=1) for name in ("animals", "tools")]
    fields = {"passages": 2, "max_tokens": 30, "diversity": 0.4}
    asked = ["What is a cat?", "Who gives milk?", "Which program lists folders?"]
    parts = [Part(kind="instruction", source="endpoint", text="Answer."), Part(kind="input", source="caller", text="?")]
    answers = Desk(embedder).ask(*((query, artefacts, fields) for query in asked))
    served = [
        with_context(parts, Retrieval(sets=refs, query=query, if_none=rule.if_none), answer.passages)
        for query, answer in zip(asked, answers, strict=True)
        if isinstance(answer, Found)
    ]

    class Words:
        def context_tokens(self, text: str) -> int:
            return len(text.split())

    def searched(artefact: SetArtefact) -> Searched:
        index = Qdrant().open(artefact.digest, artefact.passages, lambda: set_folder.read(Path(artefact.folder)))
        return Searched(embedder, index)

    sets = [(ref, searched(artefact)) for ref, artefact in zip(refs, artefacts, strict=True)]
    context = RetrievalContext(rule, sets)
    rows = context.for_rows([Example(1, query, "yes") for query in asked], Words())  # type: ignore[arg-type]
    assert [[parts[0], *row.context, parts[1]] for row in rows] == served
    assert any(row.context[0].source.startswith("team/") for row in rows)
    nothing = msgspec.structs.replace(rule, min_score=1.0, if_none="refuse")
    with pytest.raises(Refusal, match="row 7: no passage of team/animals@1, team/tools@1 is to the point") as caught:
        RetrievalContext(nothing, sets).for_rows([Example(7, "Who gives milk?", "cow")], Words())  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.INVALID_DATA


def test_texts_are_embedded_in_one_batch_and_each_question_gets_its_own(embedder: Embedder) -> None:
    desk = Desk(embedder)
    one, other, none = desk.embedded_of(["a cat", "a dog"], ["a cow"], [])
    assert isinstance(one, Embedded)
    assert isinstance(other, Embedded)
    vectors = np.frombuffer(one.vectors, "<f4").reshape(2, one.dimension)
    np.testing.assert_allclose(vectors, embedder.embed(["a cat", "a dog"]), atol=1e-5)
    assert (len(other.vectors), other.dimension) == (4 * one.dimension, one.dimension)
    assert isinstance(none, Embedded)
    assert none.vectors == b""
    assert desk.embedded == [3]
