"""What a failure is called at each door: one table. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple

from guideway.schemas.failures import FailureCode

Grpc = Literal[
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
]
OpenAiType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error",
    "server_error",
]  # fmt: skip


class DoorCode(StrEnum):
    """Why a door itself refuses: there is no event, so there is no reply. Beside `FailureCode`, and as closed."""

    UNAUTHENTICATED = "unauthenticated"
    """No key or token, or one that does not count."""
    BAD_REQUEST = "bad_request"
    """What was sent is not what the door reads."""
    UNKNOWN_PATH = "unknown_path"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    """The reply is wanted in a form that there is not."""
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    """The same key with another request."""
    IDEMPOTENCY_KEY_IN_USE = "idempotency_key_in_use"
    """Another request with the same key is being accepted now."""
    UNKNOWN_REQUEST = "unknown_request"
    REQUEST_GONE = "request_gone"
    """It was known, or may have been, and its reply is not kept any more."""
    TOO_MANY_REQUESTS = "too_many_requests"
    """Of one namespace at one process."""
    BUSY = "busy"
    """The process has no room, or is ending: another one may have."""


class DoorRefusal(Exception):
    """A door refuses, with a code and a sentence that says what to change."""

    def __init__(self, code: DoorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Status(NamedTuple):
    """A failure, in the words of each door."""

    http: int
    title: str
    """Of the RFC 9457 problem: the same for every failure of the code."""
    openai_type: OpenAiType
    grpc: Grpc
    retry_after_s: int | None = None
    """How long to wait before it is tried again; None: the same request will fail again."""

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later, perhaps after somebody has set something up."""
        return self.retry_after_s is not None


def status_of(code: FailureCode | DoorCode) -> Status:
    """What this failure is called."""
    return _DOORS[code] if isinstance(code, DoorCode) else _FAILURES[code]


_BAD: Final[tuple[OpenAiType, Grpc]] = ("invalid_request_error", "INVALID_ARGUMENT")
_OURS: Final[tuple[OpenAiType, Grpc]] = ("server_error", "INTERNAL")
_LATER: Final[tuple[OpenAiType, Grpc]] = ("server_error", "UNAVAILABLE")
_UNFIT: Final[tuple[OpenAiType, Grpc]] = ("server_error", "FAILED_PRECONDITION")

_FAILURES: Final[dict[FailureCode, Status]] = {
    FailureCode.UNDECODABLE_EVENT: Status(400, "The body cannot be read", *_BAD),
    FailureCode.MISSING_FIELD: Status(400, "A required field is missing", *_BAD),
    FailureCode.UNKNOWN_FIELD: Status(400, "A field is not declared", *_BAD),
    FailureCode.WRONG_FIELD: Status(400, "A field has a wrong value", *_BAD),
    FailureCode.TEXT_TOO_LONG: Status(413, "The text is too long", *_BAD),
    FailureCode.INVALID_HEADER: Status(400, "A header cannot be read", *_BAD),
    FailureCode.UNKNOWN_ENDPOINT: Status(404, "There is no such endpoint", "not_found_error", "NOT_FOUND"),
    FailureCode.NOT_ALLOWED: Status(403, "Not allowed", "permission_error", "PERMISSION_DENIED"),
    FailureCode.NO_ROUTE: Status(404, "No endpoint for this", "not_found_error", "NOT_FOUND"),
    FailureCode.REPLY_ADDRESS_REFUSED: Status(503, "The namespace is not ready for gateways", *_LATER, 60),
    FailureCode.DEADLINE_EXCEEDED: Status(504, "The deadline passed", "server_error", "DEADLINE_EXCEEDED", 1),
    FailureCode.CANCELLED: Status(409, "Cancelled", "invalid_request_error", "CANCELLED"),
    FailureCode.QUOTA_EXCEEDED: Status(429, "A limit is reached", "rate_limit_error", "RESOURCE_EXHAUSTED", 10),
    FailureCode.GENERATION_REFUSED: Status(400, "A generation parameter is refused", *_BAD),
    FailureCode.GUIDANCE_UNKNOWN: Status(422, "Guidance is not there", "invalid_request_error", "NOT_FOUND"),
    FailureCode.GUIDANCE_FORBIDDEN: Status(403, "Guidance may not be used", "permission_error", "PERMISSION_DENIED"),
    FailureCode.GUIDANCE_MISSING: Status(503, "Guidance cannot be fetched", *_LATER, 30),
    FailureCode.GUIDANCE_DAMAGED: Status(500, "Guidance is damaged", *_UNFIT),
    FailureCode.GUIDANCE_WRONG_MODEL: Status(500, "Guidance is for another model", *_UNFIT),
    FailureCode.GUIDANCE_UNSUPPORTED: Status(500, "Guidance does not fit the model", *_UNFIT),
    FailureCode.NO_PASSAGE: Status(422, "Nothing was found", "invalid_request_error", "FAILED_PRECONDITION"),
    FailureCode.SET_WRONG_EMBEDDING: Status(500, "A retrieval set does not fit", *_UNFIT),
    FailureCode.RETRIEVAL_FAILED: Status(503, "Retrieval does not answer", *_LATER, 10),
    FailureCode.DOCUMENT_UNREADABLE: Status(400, "A document cannot be read", *_BAD),
    FailureCode.DOCUMENT_EMPTY: Status(400, "A document is empty", *_BAD),
    FailureCode.DOCUMENT_TOO_LARGE: Status(413, "A document is too large", *_BAD),
    FailureCode.DUPLICATE_ID: Status(400, "An id is used twice", *_BAD),
    FailureCode.OUTPUT_UNSATISFIABLE: Status(422, "No result has the form", *_BAD),
    FailureCode.OUTPUT_INCOMPLETE: Status(422, "The result is incomplete", *_BAD),
    FailureCode.OUTPUT_UNREADABLE: Status(502, "The result is no value", *_OURS),
    FailureCode.NOT_CONFIDENT: Status(422, "No value is probable enough", *_BAD),
    FailureCode.REPLY_TOO_LARGE: Status(502, "The result is too large", *_OURS),
    FailureCode.INVALID_DATA: Status(400, "The data cannot be used", *_BAD),
    FailureCode.NOT_BETTER: Status(422, "Not better than what is there", *_BAD),
    FailureCode.WEBHOOK_FAILED: Status(502, "A webhook did not take it", *_OURS),
    FailureCode.EGRESS_REFUSED: Status(403, "An address may not be reached", "permission_error", "PERMISSION_DENIED"),
    FailureCode.UNDECODABLE_REQUEST: Status(500, "A fault of guideway's", *_OURS),
    FailureCode.UNKNOWN_MODEL_SIZE: Status(503, "The model is not there", *_LATER, 30),
    FailureCode.UNSUPPORTED_MODEL: Status(500, "The model cannot be run", *_UNFIT),
    FailureCode.ENGINE_FAILED: Status(500, "The engine failed", *_OURS),
    FailureCode.BROKER_UNREACHABLE: Status(503, "The brokers do not answer", *_LATER, 5),
    FailureCode.LOGIN_REFUSED: Status(503, "The brokers refuse the gateway", *_LATER, 60),
    FailureCode.INVALID_MANIFEST: Status(500, "A manifest is refused", *_UNFIT),
    FailureCode.INVALID_SETTING: Status(503, "The gateway is not set up for this", *_LATER, 60),
    FailureCode.INTERNAL_ERROR: Status(500, "A fault of guideway's", *_OURS, 1),
}
_DOORS: Final[dict[DoorCode, Status]] = {
    DoorCode.UNAUTHENTICATED: Status(401, "Who calls is not known", "authentication_error", "UNAUTHENTICATED"),
    DoorCode.BAD_REQUEST: Status(400, "The request cannot be read", *_BAD),
    DoorCode.UNKNOWN_PATH: Status(404, "There is nothing at this path", "not_found_error", "UNIMPLEMENTED"),
    DoorCode.METHOD_NOT_ALLOWED: Status(405, "Not with this method", "invalid_request_error", "UNIMPLEMENTED"),
    DoorCode.NOT_ACCEPTABLE: Status(406, "There is no reply in this form", *_BAD),
    DoorCode.UNSUPPORTED_MEDIA_TYPE: Status(415, "This content type is not read", *_BAD),
    DoorCode.BODY_TOO_LARGE: Status(413, "The body is too large", *_BAD),
    DoorCode.HEADERS_TOO_LARGE: Status(431, "The headers are too large", *_BAD),
    DoorCode.IDEMPOTENCY_KEY_REUSED: Status(
        422, "The idempotency key is another request's", "invalid_request_error", "ALREADY_EXISTS"
    ),
    DoorCode.IDEMPOTENCY_KEY_IN_USE: Status(
        409, "Another request has the idempotency key now", "invalid_request_error", "ALREADY_EXISTS"
    ),
    DoorCode.UNKNOWN_REQUEST: Status(404, "There is no such request", "not_found_error", "NOT_FOUND"),
    DoorCode.REQUEST_GONE: Status(410, "The reply is not kept any more", "not_found_error", "NOT_FOUND"),
    DoorCode.TOO_MANY_REQUESTS: Status(429, "Too many at a time", "rate_limit_error", "RESOURCE_EXHAUSTED", 1),
    DoorCode.BUSY: Status(503, "No room", *_LATER, 1),
}
