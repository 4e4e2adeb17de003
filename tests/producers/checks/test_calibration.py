"""What `apply` makes of a calibration, and which ones it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.producers.checks.calibration import check_calibration, settled
from guideway.producers.marshalling.marshal import marshal
from guideway.schemas.calibration import MAX_LABELS, Calibration
from guideway.schemas.event import Event
from guideway.schemas.failures import Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.output import Boolean, Choice, Number, Text, WordLabels
from guideway.schemas.request import ReplyAddress
from guideway.schemas.retrieval import RetrievalRule

TEXTS = [f"text {number}" for number in range(8)]
PROMPT = Guidance(namespace="team", name="brief", form="text_prompt", text="Be brief.")
LORA = Guidance(
    namespace="team",
    name="lora",
    form="lora",
    artefact="sha256:" + "1" * 64,
    model_fingerprint="sha256:" + "2" * 64,
)


def endpoint(**fields: Any) -> Endpoint:
    return Endpoint(namespace="team", name="mood", model_size="small", **{"output": Boolean(), **fields})


def catalogue_of(*manifests: Manifest) -> Catalogue:
    made = Catalogue()
    for topic, key, value in catalogue_records(plan_changes(made, manifests)):
        made.absorb(topic, key, value)
    return made


def settled_of(one: Endpoint, *beside: Manifest, there: tuple[Manifest, ...] = ()) -> Any:
    [found] = [made for made in settled([one, *beside], catalogue_of(*there)) if isinstance(made, Endpoint)]
    return found.calibration


@pytest.mark.parametrize("rule", [None, "auto"])
@pytest.mark.parametrize("output", [Boolean(), Choice(["a", "b"]), WordLabels(["N", "V"])])
def test_what_chooses_labels_untaught_is_calibrated_by_itself(rule: Any, output: Any) -> None:
    assert settled_of(endpoint(calibration=rule, output=output)) == Calibration(method="contextual")


@pytest.mark.parametrize(
    "fields",
    [
        {"output": Text()},
        {"output": Number()},
        {"output": Choice(["one"])},
        {"output": Choice([f"label {number}" for number in range(MAX_LABELS + 1)])},
        {"retrieval": RetrievalRule(sets=["team/facts"])},
        {"input": InputRule(fields={"n": Field(type="integer")}, template="{n}", text_field=None)},
        {"input": InputRule(template="{length(text)}")},
    ],
    ids=str,
)
def test_what_cannot_be_or_was_taught_is_left_alone(fields: dict[str, Any]) -> None:
    assert settled_of(endpoint(**fields)) is None


def test_text_prompts_teach_nothing_and_trained_guidance_does() -> None:
    for name in ("team/brief", "team/brief@1"):
        assert settled_of(endpoint(guidance=[name]), PROMPT) == Calibration(method="contextual")
        assert settled_of(endpoint(guidance=[name]), there=(PROMPT,)) == Calibration(method="contextual")
    for name in ("team/lora", "team/lora@1", "team/lora*0.5"):
        assert settled_of(endpoint(guidance=["team/brief", name]), PROMPT, LORA) is None
        assert settled_of(endpoint(guidance=[name]), there=(LORA,)) is None
    asked = endpoint(guidance=["team/lora"], calibration="contextual")
    assert settled_of(asked, LORA) == Calibration(method="contextual")


def test_off_is_off_and_what_is_settled_stays_so() -> None:
    assert settled_of(endpoint(calibration="off")) == "off"
    for rule in (None, "off", "contextual", Calibration(method="unlabelled", texts=TEXTS)):
        once = settled([endpoint(calibration=rule)], Catalogue())
        assert settled(once, Catalogue()) == once


@pytest.mark.parametrize(
    ("template", "around"),
    [
        ("{text}", ["", ""]),
        ("Review: {text}\n{{so}}", ["Review: ", "\n{so}"]),
        ("{text} of {n} from {text}?", ["", " of 1 from ", "?"]),
    ],
)
def test_what_stands_around_a_text_is_known(template: str, around: list[str]) -> None:
    rule = InputRule(fields={"text": Field(), "n": Field(type="integer")}, template=template)
    found = settled_of(endpoint(input=rule))
    assert isinstance(found, Calibration)
    assert found.around == around


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"output": Text(), "calibration": "contextual"}, "has no labels"),
        (
            {"output": Choice([f"label {n}" for n in range(MAX_LABELS + 1)]), "calibration": "contextual"},
            "at most 100",
        ),
        ({"input": InputRule(template="{length(text)}"), "calibration": "contextual"}, "as it is"),
        (
            {"calibration": Calibration(method="fitted", texts=TEXTS, labels=["maybe"] * 8)},
            "'maybe' is none of the output's labels",
        ),
        (
            {
                "output": WordLabels(["N"]),
                "calibration": Calibration(method="fitted", texts=TEXTS, labels=["N"] * 8),
            },
            "unlabelled",
        ),
    ],
)
def test_what_is_asked_for_and_cannot_be_is_refused(fields: dict[str, Any], why: str) -> None:
    for check in (check_calibration, lambda one: settled([one], Catalogue())):
        with pytest.raises(Refusal, match=why):
            check(endpoint(**fields))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"method": "unlabelled"}, "needs 8 texts"),
        ({"method": "unlabelled", "texts": [*TEXTS, " "]}, "is empty"),
        ({"method": "unlabelled", "texts": TEXTS, "file": "a.txt"}, "leave one out"),
        ({"method": "contextual", "texts": TEXTS}, "takes no texts"),
        ({"method": "fitted", "texts": TEXTS}, "0 labels for 8 texts"),
        ({"method": "unlabelled", "texts": TEXTS, "labels": ["a"]}, "1 labels for 8 texts"),
    ],
)
def test_a_calibration_that_says_too_little_or_too_much_is_none(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Calibration(**fields)


def requested(one: Endpoint, **event: Any) -> Any:
    return marshal(
        Event(id="e", content="good", **event),
        one,
        3,
        catalogue_of(PROMPT),
        reply_to=[ReplyAddress(topic="t")],
        written_ms=0,
        now_ms=0,
    ).calibration


def test_a_request_says_how_its_labels_are_calibrated_and_nothing_where_it_brings_guidance() -> None:
    contextual = Calibration(method="contextual")
    assert requested(endpoint(calibration=contextual)) == "contextual"
    assert requested(endpoint()) is None, "an endpoint that was applied before there was any"
    assert requested(endpoint(calibration="off")) is None
    brings = endpoint(calibration=contextual, request_guidance=["team/brief"])
    assert requested(brings) == "contextual"
    assert requested(brings, guidance=["team/brief"]) is None
