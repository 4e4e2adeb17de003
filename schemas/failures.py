"""The closed list of ways in which a request, an event or a command can fail, and the exception that carries one."""

from __future__ import annotations

from enum import StrEnum


class FailureCode(StrEnum):
    """Why there is no result. The code is for programs; the message beside it tells a person what to change."""

    # The event
    UNDECODABLE_EVENT = "undecodable_event"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_FIELD = "wrong_field"
    TEXT_TOO_LONG = "text_too_long"
    INVALID_HEADER = "invalid_header"
    UNKNOWN_ENDPOINT = "unknown_endpoint"
    NOT_ALLOWED = "not_allowed"
    NO_ROUTE = "no_route"
    REPLY_ADDRESS_REFUSED = "reply_address_refused"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    QUOTA_EXCEEDED = "quota_exceeded"
    # The guidance
    GUIDANCE_UNKNOWN = "guidance_unknown"
    GUIDANCE_FORBIDDEN = "guidance_forbidden"
    GUIDANCE_MISSING = "guidance_missing"
    GUIDANCE_DAMAGED = "guidance_damaged"
    GUIDANCE_WRONG_MODEL = "guidance_wrong_model"
    GUIDANCE_UNSUPPORTED = "guidance_unsupported"
    # The generation
    GENERATION_REFUSED = "generation_refused"
    # The retrieval sets
    NO_PASSAGE = "no_passage"
    SET_WRONG_EMBEDDING = "set_wrong_embedding"
    RETRIEVAL_FAILED = "retrieval_failed"
    DOCUMENT_UNREADABLE = "document_unreadable"
    DOCUMENT_EMPTY = "document_empty"
    DOCUMENT_TOO_LARGE = "document_too_large"
    DUPLICATE_ID = "duplicate_id"
    # The result
    OUTPUT_UNSATISFIABLE = "output_unsatisfiable"
    OUTPUT_INCOMPLETE = "output_incomplete"
    OUTPUT_UNREADABLE = "output_unreadable"
    NOT_CONFIDENT = "not_confident"
    REPLY_TOO_LARGE = "reply_too_large"
    # The targets
    WEBHOOK_FAILED = "webhook_failed"
    EGRESS_REFUSED = "egress_refused"
    # The studio
    INVALID_DATA = "invalid_data"
    NOT_BETTER = "not_better"
    # The system
    UNDECODABLE_REQUEST = "undecodable_request"
    UNKNOWN_MODEL_SIZE = "unknown_model_size"
    UNSUPPORTED_MODEL = "unsupported_model"
    ENGINE_FAILED = "engine_failed"
    BROKER_UNREACHABLE = "broker_unreachable"
    LOGIN_REFUSED = "login_refused"
    INVALID_MANIFEST = "invalid_manifest"
    INVALID_SETTING = "invalid_setting"
    INTERNAL_ERROR = "internal_error"

    @property
    def retryable(self) -> bool:
        """Whether the same event can succeed when sent again unchanged."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        FailureCode.DEADLINE_EXCEEDED,
        FailureCode.QUOTA_EXCEEDED,
        FailureCode.GUIDANCE_MISSING,
        FailureCode.RETRIEVAL_FAILED,
        FailureCode.UNKNOWN_MODEL_SIZE,
        FailureCode.BROKER_UNREACHABLE,
        FailureCode.INTERNAL_ERROR,
    }
)


class Refusal(Exception):
    """Something is refused or has failed, with a code and a sentence that says what to change."""

    def __init__(self, code: FailureCode, message: str, *, to_others: str | None = None) -> None:
        """to_others: what callers of another namespace than the endpoint's are told, where `message` is not for them.

        None: that follows from the code (`catalogue.access.told_to_others`).
        """
        super().__init__(message)
        self.code = code
        self.message = message
        self.to_others = to_others

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def our_fault(error: BaseException, where: str) -> Refusal:
    """The refusal for an exception that nobody foresaw. Its own words may quote the text, so only the log has them."""
    return Refusal(
        FailureCode.INTERNAL_ERROR,
        f"{type(error).__name__} in {where}, which is a fault of guideway's: report it with the log from then",
    )
