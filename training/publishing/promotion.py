"""Decides whether a candidate replaces the endpoint, by the known scores of both. Pure."""

from __future__ import annotations

import msgspec

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Lineage
from guideway.schemas.output import Boolean, Choice, OutputRule, telling_as, telling_nothing
from guideway.training.evaluation.agreement import is_agreement
from guideway.training.publishing.decision import CANDIDATE, interval, is_better


def promoted(candidate: Endpoint, present: Endpoint | None, catalogue: Catalogue, *, anyway: bool) -> Endpoint:
    """The endpoint with the candidate's guidance, if the candidate is significantly better, or `anyway`.

    Two scores on the same rows are compared. An endpoint without guidance counts as the bare model.

    Raises: Refusal `not_better`; `invalid_setting` if the scores are on different rows or one is unknown.
    """
    theirs, ours = (score_of(one, catalogue) for one in (present, candidate))
    if not anyway:
        if theirs is None and present is not None and present.guidance:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the score of {present.address} is unknown, because its guidance is of no run: run the task again, "
                "compare the two in its report, and promote the candidate with --anyway if it is better",
            )
        _check_better(ours, theirs)
    name = candidate.name.removesuffix(CANDIDATE)
    return msgspec.structs.replace(candidate if present is None else _taking(present, candidate), name=name)


def score_of(endpoint: Endpoint | None, catalogue: Catalogue) -> Lineage | None:
    """The lineage of an endpoint's guidance, with its score; None if it is unknown."""
    if endpoint is None:
        return None
    for name in endpoint.guidance:
        _, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
        if guidance.lineage is not None:
            return guidance.lineage
    return None


def unpaired(ours: Lineage, theirs: Lineage) -> list[float]:
    """[difference, low, high] of two scores without their single rows.

    Newcombe's interval for two independent shares (1998, "Interval estimation for the difference between independent
    proportions", method 10).
    """
    (a, a_low, a_high), (b, b_low, b_high) = ours.score, theirs.score
    down = ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    up = ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5
    return [a - b, a - b - down, a - b + up]


def _check_better(ours: Lineage | None, theirs: Lineage | None) -> None:
    if ours is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "the score of the candidate is unknown: publish it from a run, or promote it with --anyway",
        )
    if is_agreement(ours.metric):
        raise Refusal(
            FailureCode.NOT_BETTER,
            f"nobody knows whether the candidate is better: its score is {ours.metric} with archived answers of a "
            "model. Run its task with known answers in data.eval, or promote it with --anyway",
        )
    if theirs is None:
        if not is_better(ours.over_bare):
            raise _not_better(ours, "the bare model", ours.over_bare)
        return
    if (ours.eval_data, ours.metric) != (theirs.eval_data, theirs.metric):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the candidate's {ours.metric} and the endpoint's {theirs.metric} are on different rows and cannot be "
            "compared: run its task on the same evaluation rows, or promote it with --anyway",
        )
    if not is_better(difference := unpaired(ours, theirs)):
        raise _not_better(ours, "the endpoint as it is", difference)


def _not_better(ours: Lineage, what: str, difference: list[float]) -> Refusal:
    return Refusal(
        FailureCode.NOT_BETTER,
        f"the candidate does not beat {what} by more than chance ({ours.metric} {interval(difference)} over it): leave "
        "it, or promote it with --anyway",
    )


def _output(present: OutputRule, candidate: OutputRule) -> OutputRule:
    """The candidate's. What replies tell of doubtful values stays, where both have the same labels."""
    if telling_nothing(present) in (present, candidate) or telling_nothing(present) != telling_nothing(candidate):
        return telling_as(candidate, present)
    if isinstance(present, Choice | Boolean) and isinstance(candidate, Choice | Boolean):
        return msgspec.structs.replace(present, label_temperature=candidate.label_temperature)
    return present


def _taking(present: Endpoint, candidate: Endpoint) -> Endpoint:
    """The endpoint with the candidate's guidance and output; all else stays as it is."""
    return msgspec.structs.replace(
        present,
        model_size=candidate.model_size,
        instruction=candidate.instruction,
        guidance=candidate.guidance,
        output=_output(present.output, candidate.output),
        generation=candidate.generation,
        calibration=candidate.calibration,
        retrieval=candidate.retrieval,
    )
