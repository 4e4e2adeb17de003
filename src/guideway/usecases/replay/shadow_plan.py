"""What a shadow compares, and what is known against it beforehand. Pure."""

from __future__ import annotations

from typing import Any, Literal

from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.limits import limits_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.training.publishing.decision import CANDIDATE
from guideway.training.publishing.promotion import promoted
from guideway.training.replays.answers import SIDES, Question
from guideway.usecases.replay.folder import Plan, Shadowing
from guideway.usecases.replay.trial import trial_of, with_versions


def plan_of(
    id_: str,
    version: int,
    endpoint: Endpoint,
    new: Endpoint,
    catalogue: Catalogue,
    *,
    changes: dict[str, str],
    candidate: int | None,
    share: float,
    rows: int,
    promote: Literal["never", "if_better"],
    asked_for: dict[str, Any],
) -> Plan:
    """The shadow of this version of an endpoint. new: as it might be; candidate: by this version of its candidate.

    changes: what is new, for people. Raises Refusal: of guidance that is not there; invalid_setting of a candidate that
    is to be promoted, but cannot be compared.
    """
    now_trial, new_trial = (
        trial_of(one, endpoint.name, side, catalogue) for one, side in zip((endpoint, new), SIDES, strict=True)
    )
    plan = Plan(
        id=id_,
        asked_for=asked_for,
        question=Question(
            address=endpoint.address,
            version=version,
            now=now_trial.output,
            new=new_trial.output,
            changes=changes | with_versions(changes, new_trial),
            source=f"live traffic ({share:.2%} of it)",
        ),
        now=now_trial,
        new=new_trial,
        rows=rows,
        shadow=Shadowing(share=share, promote=promote, candidate=candidate),
    )
    if promote == "if_better" and plan.question.incomparable:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{plan.question.incomparable}, so a shadow would never promote {endpoint.address}{CANDIDATE}: give both "
            "the same type of output, or promote it with `guideway studio promote`",
        )
    return plan


def told_candidate(endpoint: Endpoint, version: int) -> dict[str, str]:
    """What is new where its candidate is, for people."""
    return {"candidate": f"{endpoint.address}{CANDIDATE}@{version}"}


def has_candidate(catalogue: Catalogue, endpoint: Endpoint) -> bool:
    """Whether a candidate stands beside the endpoint."""
    return catalogue.latest(Identity("endpoint", endpoint.namespace, endpoint.name + CANDIDATE)) is not None


def tried(catalogue: Catalogue, endpoint: Endpoint) -> tuple[int, Endpoint]:
    """(the candidate's version, the endpoint as it would be with it). Raises Refusal where it is so already."""
    version, candidate = catalogue.endpoint(endpoint.namespace, endpoint.name + CANDIDATE)
    new = promoted(candidate, endpoint, catalogue, anyway=True)
    if new == endpoint:
        raise Refusal(FailureCode.INVALID_SETTING, f"{endpoint.address} is as its candidate already")
    return version, new


def require_promotable(catalogue: Catalogue, endpoint: Endpoint, say: str) -> None:
    """What is known of the scores now is said now, not after days. say: how to compare all the same.

    Raises Refusal as `promoted`.
    """
    _, candidate = catalogue.endpoint(endpoint.namespace, endpoint.name + CANDIDATE)
    try:
        promoted(candidate, endpoint, catalogue, anyway=False)
    except Refusal as refusal:
        raise Refusal(
            refusal.code,
            f"whatever live traffic shows, `guideway studio promote` would refuse {candidate.address}, and so would a "
            f"shadow: {refusal.message}. To compare all the same, {say}",
        ) from None


def beyond_limits(catalogue: Catalogue, namespace: str, share: float, say: str) -> str:
    """Why a shadow could harm live requests of this namespace; empty: it could not. say: what allows it all the same.

    Its requests count: in a namespace with limits, those of callers could wait for them.
    """
    limits = limits_of(catalogue, namespace)
    counted = ("tokens_per_minute", "requests_per_minute", "waiting", "rows")
    shared = [name for name in counted if getattr(limits, name) is not None]
    if not shared:
        return ""
    return (
        f"namespace {namespace} has limits ({', '.join(shared)}), and a shadow's requests count: live ones could wait "
        f"for them, or be refused. It asks two for each event that it chooses, here {2 * share:.0%} more: if there is "
        f"room for them, say {say}"
    )
