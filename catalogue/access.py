"""Which endpoints a namespace may call, and what it is told of those of others. Pure."""

from __future__ import annotations

from typing import Final

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import endpoint_address

OF_THE_REQUEST: Final = frozenset(
    {
        FailureCode.NOT_ALLOWED,
        FailureCode.DEADLINE_EXCEEDED,
        FailureCode.CANCELLED,
        FailureCode.REPLY_ADDRESS_REFUSED,
        FailureCode.REPLY_TOO_LARGE,
        FailureCode.NOT_CONFIDENT,
        FailureCode.INTERNAL_ERROR,
    }
)
"""Their messages say nothing of how the endpoint is made."""
OF_THE_EVENT: Final = OF_THE_REQUEST | {
    FailureCode.UNDECODABLE_EVENT,
    FailureCode.MISSING_FIELD,
    FailureCode.UNKNOWN_FIELD,
    FailureCode.WRONG_FIELD,
    FailureCode.TEXT_TOO_LONG,
    FailureCode.INVALID_HEADER,
    FailureCode.UNKNOWN_ENDPOINT,
    FailureCode.GENERATION_REFUSED,
    FailureCode.QUOTA_EXCEEDED,
}
"""The same of refusals by the endpoint service: these name the endpoint's fields, which every caller has to know."""

_GUIDANCE: Final = "the endpoint's guidance cannot be used as it is"
_RETRIEVAL: Final = "the endpoint's retrieval sets cannot be searched"
_TOLD: Final = {
    FailureCode.UNKNOWN_ENDPOINT: "the endpoint was changed or deleted meanwhile: send the event again",
    FailureCode.TEXT_TOO_LONG: "the text is too long for the endpoint: shorten it",
    FailureCode.GUIDANCE_UNKNOWN: _GUIDANCE,
    FailureCode.GUIDANCE_FORBIDDEN: _GUIDANCE,
    FailureCode.GUIDANCE_MISSING: f"{_GUIDANCE}: send the event again later",
    FailureCode.GUIDANCE_DAMAGED: _GUIDANCE,
    FailureCode.GUIDANCE_WRONG_MODEL: _GUIDANCE,
    FailureCode.GUIDANCE_UNSUPPORTED: _GUIDANCE,
    FailureCode.NO_PASSAGE: "the endpoint's retrieval sets hold nothing to the point: ask otherwise",
    FailureCode.SET_WRONG_EMBEDDING: _RETRIEVAL,
    FailureCode.RETRIEVAL_FAILED: f"{_RETRIEVAL}: send the event again later",
    FailureCode.OUTPUT_UNSATISFIABLE: "no text satisfies the endpoint's output rule for this input",
    FailureCode.OUTPUT_INCOMPLETE: "the answer ended before its form was complete: send a shorter or simpler text",
    FailureCode.OUTPUT_UNREADABLE: "the answer has its form, but is no value: send another text",
    FailureCode.UNKNOWN_MODEL_SIZE: "the endpoint's model is not served: send the event again later",
    FailureCode.ENGINE_FAILED: "the engine failed with this request each time: change its text",
}


def told_to_others(refusal: Refusal, owner: str, *, verbatim: frozenset[FailureCode]) -> Refusal:
    """What a caller of another namespace is told of a refusal: nothing of how `owner` made the endpoint.

    verbatim: codes whose messages are told as they are.
    """
    if refusal.to_others is not None:
        return Refusal(refusal.code, refusal.to_others)
    if refusal.code in verbatim:
        return refusal
    told = _TOLD.get(refusal.code, "the endpoint cannot answer this")
    return Refusal(refusal.code, f"{told}; if it stays so, tell namespace {owner}, with the id of this request")


def called_endpoint(catalogue: Catalogue, namespace: str, name: str, *, caller: str) -> tuple[int, Endpoint]:
    """(version, endpoint) that the namespace `caller` calls, the newest version.

    Raises Refusal: `unknown_endpoint` for the caller's own endpoints and those of `public`; else `not_allowed`, in the
    same words whether there is no such endpoint or none that the caller may call. So nobody learns what others have.
    """
    try:
        version, endpoint = catalogue.endpoint(namespace, name)
    except Refusal:
        if namespace in {caller, "public"}:
            raise
        raise _not_allowed(namespace, name, caller) from None
    if not endpoint.callable_by(caller):
        raise _not_allowed(namespace, name, caller)
    return version, endpoint


def _not_allowed(namespace: str, name: str, caller: str) -> Refusal:
    return Refusal(
        FailureCode.NOT_ALLOWED,
        f"namespace {caller} may not call {endpoint_address(namespace, name)}, if there is such an endpoint: correct "
        f"the address, or ask {namespace} to add {caller} to the endpoint's `access`",
    )
