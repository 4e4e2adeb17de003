"""What a router's answer means for an event: the endpoint, or the refusal with what was considered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.services.routing import Considered, RoutingAnswer


def endpoint_of(answer: RoutingAnswer, router: Router, among: Collection[str]) -> str:
    """The endpoint that the router chooses, `/NAMESPACE/NAME`. among: those that it may choose from now.

    Whoever wrote the answer, it can name one of these only.
    Raises Refusal: `no_route`, or that of a worker that could not decide.
    """
    if answer.failure is not None:
        raise Refusal(answer.failure.code, f"the router of namespace {router.namespace}: {answer.failure.message}")
    if answer.endpoint in among:
        return answer.endpoint
    raise no_route(router, among, answer.considered)


def no_route(router: Router, among: Collection[str], considered: Sequence[Considered] = ()) -> Refusal:
    """For an event that the router sends nowhere. It names no endpoint but those that its namespace may call."""
    if not among:
        return Refusal(
            FailureCode.NO_ROUTE,
            f"the router of namespace {router.namespace} has no endpoint to choose from: they were deleted, or do not "
            "allow the namespace any more; call one by its name (on Kafka: in the header `endpoint`)",
        )
    said = ["no rule holds"] if router.rules else []
    for method, rule in (("examples", router.examples), ("model", router.model)):
        scores = [_score(one, among) for one in considered if one.method == method]
        if rule is not None and scores:
            said.append(f"by {method} {', '.join(filter(None, scores))}, and {_wanted(rule)}")
    return Refusal(
        FailureCode.NO_ROUTE,
        f"the router of namespace {router.namespace} finds no endpoint for it: {'; '.join(said) or 'it has no text'}; "
        "call the endpoint itself (on Kafka: name it in the header `endpoint`), or add a rule or an example to the "
        "router",
    )


def _score(one: Considered, among: Collection[str]) -> str:
    if not one.endpoint:
        return f"none of them {one.score:.2f}"
    return f"{one.endpoint} {one.score:.2f}" if one.endpoint in among else ""


def _wanted(rule: object) -> str:
    least, margin = getattr(rule, "least_score", 0.0), getattr(rule, "least_margin", 0.0)
    return f"at least {least:.2f} is needed" + (f", {margin:.2f} above the next" if margin else "")
