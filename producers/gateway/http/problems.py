"""Refusals and failures as problem documents (RFC 9457). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

from guideway.producers.gateway.status import DoorCode, DoorRefusal, Status, status_of
from guideway.schemas.failures import FailureCode, Refusal

MEDIA_TYPE: Final = "application/problem+json"


def problem(code: FailureCode | DoorCode, message: str, *, passes: bool = True, **more: Any) -> Response:
    """The response. passes: whether the same request may succeed later, where its code says that it may.

    more: further members of the document.
    """
    status = status_of(code) if passes else status_of(code)._replace(retry_after_s=None)
    content = {
        "type": f"urn:guideway:failure:{code.value}",
        "title": status.title,
        "status": status.http,
        "detail": message,
        "code": code.value,
        "retryable": status.retryable,
        **more,
    }
    return Response(msgspec.json.encode(content), status.http, failure_headers(code, status), MEDIA_TYPE)


def failure_headers(code: FailureCode | DoorCode, status: Status | None = None) -> dict[str, str]:
    """The headers that go with a failure, in whatever form its body is. status: None: that of the code."""
    status = status or status_of(code)
    headers = {"x-should-retry": "true" if status.retryable else "false"}
    if status.retry_after_s is not None:
        headers["retry-after"] = str(status.retry_after_s)
    if code is DoorCode.UNAUTHENTICATED:
        headers["www-authenticate"] = 'Bearer realm="guideway"'
    return headers


def problem_of(refusal: Refusal | DoorRefusal, **more: Any) -> Response:
    """The response for a refusal."""
    return problem(refusal.code, refusal.message, **more)


def with_headers(response: Response, headers: Mapping[str, str]) -> Response:
    """The response, with these headers as well."""
    response.headers.update(headers)
    return response
