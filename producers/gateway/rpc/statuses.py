"""A failure → the status of a gRPC call, with details for programs (google.rpc). Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from guideway.producers.gateway.status import DoorCode, status_of
from guideway.schemas.failures import FailureCode

DOMAIN: Final = "guideway"
_MOST_BYTES: Final = 1000
"""Of a message. It stands in trailers up to four times, and clients take 8 KiB of trailers."""
_FIELD: Final = re.compile(r"(?:row \d+ of \d+: )?(?:unknown )?(?:field|input) '([^']{1,200})'")
"""How the sentences begin that are about one field or input."""
_OF_ENDPOINTS: Final = frozenset({FailureCode.UNKNOWN_ENDPOINT, FailureCode.NOT_ALLOWED})


def rich_status(
    code: FailureCode | DoorCode, message: str, *, namespace: str = "", endpoint: str = "", request_id: str = ""
) -> Status:
    """The status of a failed call.

    namespace: the caller's; endpoint: `/NAMESPACE/NAME`, as it was asked; request_id: of the event, if it got one.
    """
    status = status_of(code)
    said = cut(message)
    told = {"endpoint": endpoint, "request_id": request_id, "retryable": str(status.retryable).lower()}
    found: list[Message] = [
        details.ErrorInfo(reason=code.upper(), domain=DOMAIN, metadata={key: one for key, one in told.items() if one})
    ]
    if status.grpc == "INVALID_ARGUMENT":
        named = _FIELD.match(message)
        violation = details.BadRequest.FieldViolation(field=named[1] if named else "", description=said)
        found.append(details.BadRequest(field_violations=[violation]))
    if status.grpc == "RESOURCE_EXHAUSTED":
        of = details.QuotaFailure.Violation(subject=f"namespace:{namespace}", description=said)
        found.append(details.QuotaFailure(violations=[of]))
    if code in _OF_ENDPOINTS and endpoint:
        found.append(details.ResourceInfo(resource_type="guideway.endpoint", resource_name=endpoint, description=said))
    if status.retry_after_s is not None:
        found.append(details.RetryInfo(retry_delay=Duration(seconds=status.retry_after_s)))
    number: int = grpc.StatusCode[status.grpc].value[0]
    return Status(code=number, message=said, details=[_packed(one) for one in found])


def as_grpc(status: Status) -> Any:
    """What `abort_with_status` takes."""
    return rpc_status.to_status(status)


def cut(message: str) -> str:
    """The message, as much of it as fits into trailers."""
    encoded = message.encode()
    return message if len(encoded) <= _MOST_BYTES else encoded[:_MOST_BYTES].decode("utf-8", "ignore") + "…"


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
