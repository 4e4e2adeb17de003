"""Paths of the HTTP door. What is not there, and what is there with another method, is refused as everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from guideway.producers.gateway.http.problems import problem, problem_of, with_headers
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import Refusal

Handler = Callable[[Request], Awaitable[Response]]


class Path(Route):
    """One path, with a handler for each method."""

    def __init__(
        self, path: str, handlers: Mapping[str, Handler], tell: Callable[[DoorRefusal], Response] = problem_of
    ) -> None:
        """tell: a refusal in the form of this path's door."""

        async def endpoint(request: Request) -> Response:
            # What answers GET answers HEAD; the server leaves the body out.
            handler = handlers.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                allowed = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else [])])
                refusal = DoorRefusal(
                    DoorCode.METHOD_NOT_ALLOWED, f"this path takes {allowed}: use one of these methods"
                )
                return with_headers(tell(refusal), {"allow": allowed})
            return await handler(request)

        super().__init__(path, endpoint)
        # All methods come to `endpoint`.
        self.methods = set()


_OPENAI: Final = frozenset({"chat/completions", "completions", "models", "embeddings", "responses", "files", "batches"})
"""Where the packages of OpenAI call a server whose `base_url` lacks its end."""


def of_openai(path: str, refused: DoorRefusal | Refusal) -> Response | None:
    """What is said where there is nothing at a path that the packages of OpenAI call; None at others.

    They show what stands in a member `error`.
    """
    if path.strip("/") not in _OPENAI:
        return None
    message = f"{refused.message}; OpenAI's packages take a base_url that ends in /v1"
    return problem(refused.code, message, error={"message": message, "code": refused.code.value})


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """For what is at no path."""
    refused = DoorRefusal(
        DoorCode.UNKNOWN_PATH,
        "there is nothing at this path: endpoints are called with POST at /NAMESPACE/NAME",
    )
    if (told := of_openai(scope["path"], refused)) is None:
        raise refused
    await told(scope, receive, send)
