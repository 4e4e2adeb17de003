"""What deleting takes away, and what evaluation says of answers. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.catalogue.changes import Deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.manifests import Manifest
from guideway.schemas.reply import Completed, Failed, Reply, Sample, Usage
from guideway.schemas.retrieval import Citation
from guideway.schemas.wire import MANIFEST
from guideway.training.sets.evaluate import AnswerScores, Pair, answer_scores
from guideway.training.sets.publish import removal

SET, ALIAS = Identity("set", "team", "facts"), Identity("alias", "team", "facts")


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def a_set(letter: str, **fields: Any) -> RetrievalSet:
    model = EmbeddingModel(source="x", fingerprint=digest("e"), dimension=4)
    made = RetrievalSet(namespace="team", name="facts", artefact=digest(letter), embedding=model, passages=3)
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def catalogue() -> Catalogue:
    """Versions 1 to 3; 1 and 3 have one content, and another set has that of 2."""
    made = Catalogue()
    entries: list[tuple[Manifest, int]] = [
        *((a_set(letter), version) for version, letter in enumerate("aba", 1)),
        (a_set("b", name="other"), 1),
        (SetAlias(namespace="team", name="facts", version=2), 1),
    ]
    for manifest, version in entries:
        made.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(version), MANIFEST.encode(manifest))
    return made


def test_the_version_that_the_name_stands_for_stays(catalogue: Catalogue) -> None:
    with pytest.raises(Refusal) as caught:
        removal(catalogue, "team", "facts", 2)
    assert caught.value.code is FailureCode.INVALID_SETTING


def test_a_version_goes_alone_and_its_artefact_with_its_last_user(catalogue: Catalogue) -> None:
    removed = removal(catalogue, "team", "facts", 1)
    assert (removed.deletions, removed.unused_artefacts) == ([Deletion(SET, 1, kept=False)], [])


def test_a_set_goes_with_its_alias(catalogue: Catalogue) -> None:
    removed = removal(catalogue, "team", "facts", None)
    assert [(one.identity, one.version) for one in removed.deletions] == [(SET, 1), (SET, 2), (SET, 3), (ALIAS, 1)]
    assert [one.kept for one in removed.deletions] == [False, False, True, True], "the highest numbers are kept"
    assert removed.unused_artefacts == [digest("a")], "another set has the other one"


def test_answers_are_scored_by_the_set_they_came_from() -> None:
    def reply(text: str, *sets: str) -> Completed:
        return Completed(
            id="r",
            namespace="team",
            endpoint="ask",
            endpoint_version=1,
            samples=[Sample(value=text, text=text, finish_reason="stop")],
            usage=Usage(prompt_tokens=1, output_tokens=1),
            guidance=[],
            model_fingerprint="f",
            citations=[Citation(id="p", set=one, version=1, score=0.5) for one in sets],
        )

    failed = Failed(
        id="r", namespace="team", endpoint="ask", code=FailureCode.NO_PASSAGE, message="none", retryable=False
    )
    pairs = [Pair(question="?", id="p", answer=answer) for answer in ("Cat", "dog", "cow", "hen")]
    pairs.append(Pair(question="?", id="p"))
    answered = [reply("A cat.", "team/a"), reply("A cat.", "team/a"), reply("A cow.", "team/b")]
    replies: list[Reply] = [*answered, failed, reply("x")]
    assert answer_scores(pairs, replies) == [
        AnswerScores(set="nothing", questions=1, accuracy=0.0),
        AnswerScores(set="team/a@1", questions=2, accuracy=0.5),
        AnswerScores(set="team/b@1", questions=1, accuracy=1.0),
    ]
    spelled = [("no", "unknown"), ("no", "No."), ("猫", "这是猫。"), ("42", "42公里"), ("4", "42")]
    told = answer_scores(
        [Pair(question="?", id="p", answer=answer) for answer, _ in spelled],
        [reply(text, f"team/{place}") for place, (_, text) in enumerate(spelled)],
    )
    assert [one.accuracy for one in told] == [0.0, 1.0, 1.0, 1.0, 0.0]
