"""Refusals in OpenAI's form. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.producers.gateway.status import DoorCode, DoorRefusal, Status, status_of
from guideway.schemas.failures import FailureCode, Refusal

TOO_LONG: Final = "context_length_exceeded"
"""OpenAI's own code, which clients look for."""
UNKNOWN_MODEL: Final = "model_not_found"
"""As well."""


class Wrong(DoorRefusal):
    """A parameter is wrong, or asks for what there is not."""

    def __init__(
        self, message: str, param: str | None = None, *, code: DoorCode | FailureCode = DoorCode.BAD_REQUEST
    ) -> None:
        super().__init__(DoorCode.BAD_REQUEST, message)
        self.param = param
        self.told: str = code


class UnknownModel(DoorRefusal):
    """There is no such endpoint, or the caller may not call it: the same words for both."""

    def __init__(self, model: str, caller: str) -> None:
        super().__init__(
            DoorCode.UNKNOWN_PATH,
            f"the model {model[:140]!r} does not exist, or namespace {caller} may not call it: models are endpoints, "
            "NAMESPACE/NAME, and GET /v1/models lists those that you may call",
        )


def envelope(error: DoorRefusal | Refusal, param: str | None = None) -> tuple[Status, dict[str, Any]]:
    """The status and the body that tell it. param: the parameter that is to blame, where `error` does not say."""
    status, code = status_of(error.code), str(error.code)
    match error:
        case Wrong():
            param, code = error.param, error.told
        case UnknownModel():
            param, code = "model", UNKNOWN_MODEL
        case Refusal(code=FailureCode.UNKNOWN_ENDPOINT | FailureCode.NOT_ALLOWED):
            status, param, code = status_of(FailureCode.UNKNOWN_ENDPOINT), "model", UNKNOWN_MODEL
        case Refusal(code=FailureCode.TEXT_TOO_LONG):
            status, code = status._replace(http=400), TOO_LONG
        case Refusal(code=FailureCode.GENERATION_REFUSED):
            status = status._replace(http=400, openai_type="invalid_request_error")
    body = {"error": {"message": error.message, "type": status.openai_type, "param": param, "code": code}}
    return status, body
