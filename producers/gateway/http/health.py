"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.paths import Path


def routes(gateway: Gateway) -> list[BaseRoute]:
    """For whoever starts, stops and balances processes; nobody is asked who calls."""

    async def live(_request: Request) -> Response:
        return Response(b'{"status":"live"}', media_type="application/json")

    async def ready(_request: Request) -> Response:
        await gateway.require_ready()
        return Response(b'{"status":"ready"}', media_type="application/json")

    return [Path("/health/live", {"GET": live}), Path("/health/ready", {"GET": ready})]
