"""The two trials of a replay: nobody is called by mistake, and nothing of it leaves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.producers.checks.calibration import settled
from guideway.schemas.failures import Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.kinds.targets import WebhookUse
from guideway.schemas.manifests import Endpoint, Guidance
from guideway.schemas.names.addresses import NAME, is_trial
from guideway.schemas.output import Boolean, Choice, DoubtfulTarget
from guideway.training.replays.answers import SIDES
from guideway.usecases.replay.trial import changed, looks_like_trial, split_change, trial_name, trial_of

MOOD = Endpoint(
    namespace="shop",
    name="mood",
    description="the mood of a message",
    model_size="small",
    instruction="Which mood?",
    input=InputRule(template="Message: {text}"),
    output=Choice(["glad", "sad"]),
    access=["desk"],
    targets=["copies", WebhookUse(webhook="crm")],
    archive=True,
    deadline_s=5,
    partitions=12,
    partial=True,
)


def catalogue(*more: Any) -> Catalogue:
    made = Catalogue()
    soft = Guidance(
        namespace="shop",
        name="soft",
        form="soft_prompt",
        artefact="sha256:" + "1" * 64,
        model_fingerprint="sha256:" + "2" * 64,
    )
    for one in (soft, msgspec.structs.replace(soft, description="newer"), *more):
        for record in catalogue_records(plan_changes(made, [one])):
            made.absorb(*record)
    return made


def test_nothing_of_a_trial_leaves_and_no_router_chooses_it() -> None:
    trial = trial_of(MOOD, "mood", "now", catalogue())
    assert (trial.name, trial.lane, trial.description) == ("mood-replay-now", "batch", "")
    assert (trial.targets, trial.archive, trial.access, trial.deadline_s, trial.partial) == ([], False, [], None, False)
    assert (trial.instruction, trial.input, trial.output) == (MOOD.instruction, MOOD.input, MOOD.output)
    assert not trial.leaves
    assert is_trial(trial.name)


def test_an_endpoint_that_somebody_uses_is_no_trial_whatever_its_name() -> None:
    trial = trial_of(MOOD, "mood", "new", catalogue())
    assert looks_like_trial(trial)
    used: list[dict[str, Any]] = [
        {"description": "mine"},
        {"access": ["desk"]},
        {"targets": ["copies"]},
        {"archive": True},
    ]
    for fields in [*used, {"lane": "interactive"}, {"name": "mood"}]:
        assert not looks_like_trial(msgspec.structs.replace(trial, **fields))


def test_doubtful_values_go_nowhere() -> None:
    rule = Choice(["glad", "sad"], probabilities=True, min_confidence=0.9, below=DoubtfulTarget("people"))
    trial = trial_of(msgspec.structs.replace(MOOD, output=rule), "mood", "new", catalogue())
    assert trial.output == Choice(["glad", "sad"], probabilities=True)
    assert not trial.copied_to


def test_guidance_keeps_the_version_that_it_has_at_the_start() -> None:
    endpoint = msgspec.structs.replace(MOOD, guidance=["shop/soft"])
    assert trial_of(endpoint, "mood", "new", catalogue()).guidance == ["shop/soft@2"]
    with pytest.raises(Refusal, match="there is no guidance shop/none-such"):
        trial_of(msgspec.structs.replace(MOOD, guidance=["shop/none-such"]), "mood", "new", catalogue())


@pytest.mark.parametrize("name", ["m", "m" * 63, "m" * 51 + "-" + "m" * 11])
def test_names_of_trials_are_names(name: str) -> None:
    for side in SIDES:
        trial = trial_name(name, side)
        assert NAME.fullmatch(trial)
        assert is_trial(trial)


@pytest.mark.parametrize(
    ("told", "field", "value"),
    [
        ("guidance=shop/soft@1, shop/other", "guidance", ["shop/soft@1", "shop/other"]),
        ("instruction=Say = how.", "instruction", "Say = how."),
        ("instruction=none", "instruction", ""),
        ("model_size=large", "model_size", "large"),
        ("output={type: choice, labels: [no, yes]}", "output", Choice(["no", "yes"])),
        ("output={type: boolean}", "output", Boolean()),
        ("calibration=off", "calibration", "off"),
    ],
)
def test_what_is_new(told: str, field: str, value: object) -> None:
    name, text = split_change(told)
    assert getattr(changed(MOOD, {name: text}), field) == value


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("guidence=a/b", "did you mean guidance"),
        ("guidance", "write NAME=VALUE"),
        ("guidance=not a name", "--with guidance"),
        ("output={type: choise}", "--with output"),
        ("output={type: choice, labels: [a", r"--with output: it is no YAML \(expected [^\n]*labels: \[glad, sad\]\}$"),
        ("output=!!bool x", r"--with output: it is no YAML \(KeyError\)"),
        ("output=" + "[" * 5000, r"--with output: it is no YAML \(RecursionError\)"),
        ("calibration=on", "--with calibration"),
        ("retrieval=x", "--with retrieval"),
        ("instruction=@/nowhere/file", r"file cannot be read \(No such file or directory\)"),
        ("instruction=Which mood?", "is so already"),
    ],
)
def test_what_is_no_change_is_refused(told: str, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        changed(MOOD, dict([split_change(told)]))
    with pytest.raises(Refusal, match="nothing is new"):
        changed(MOOD, {})


def test_calibration_is_decided_anew_as_apply_decides_it_unless_somebody_chose_it() -> None:
    there = catalogue()
    (applied,) = settled([MOOD], there)
    assert isinstance(applied, Endpoint)
    assert applied.calibration is not None, "`auto`, for the bare model"
    new = changed(applied, {"guidance": "shop/soft@1"})
    (trial,) = settled([trial_of(new, "mood", "new", there)], there)
    assert isinstance(trial, Endpoint)
    assert trial.calibration is None, "trained guidance is not calibrated"
    (same,) = settled([trial_of(applied, "mood", "now", there)], there)
    assert isinstance(same, Endpoint)
    assert same.calibration == applied.calibration
    chosen = msgspec.structs.replace(MOOD, calibration="off")
    assert changed(chosen, {"guidance": "shop/soft@1"}).calibration == "off"


def test_retrieval_sets_are_replaced_and_the_rest_of_the_rule_stays() -> None:
    new = changed(MOOD, {"retrieval": "shop/facts@2"})
    assert new.retrieval is not None
    assert new.retrieval.sets == ["shop/facts@2"]
    assert changed(new, {"retrieval": "shop/facts@3"}).retrieval == msgspec.structs.replace(
        new.retrieval, sets=["shop/facts@3"]
    )
    assert changed(new, {"retrieval": "none"}).retrieval is None
