"""`/openapi.json` and `/docs`, for whoever calls: each is shown what it may call."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.paths import Path
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.openapi.document import Selection, document
from guideway.producers.gateway.openapi.page import HEADERS, page, style
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.producers.gateway.visible import VisibleEndpoints

_ASKS: Final = {"www-authenticate": 'Basic realm="guideway: any name, and an API key as the password", charset="UTF-8"'}
"""So that a browser asks for the key. Nothing but these pages takes a key in this form."""


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Before the native paths, for these take any two names."""
    made = _Described(gateway)
    return [
        Path("/openapi.json", {"GET": made.document}),
        Path("/docs", {"GET": made.page}),
        Path("/docs/page.css", {"GET": made.style}),
    ]


class _Described:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._visible = VisibleEndpoints()

    async def document(self, request: Request) -> Response:
        """`GET /openapi.json[?namespace=NAME | ?endpoint=NAMESPACE/NAME]`"""
        return await self._shown(request, _document)

    async def page(self, request: Request) -> Response:
        """`GET /docs`, with the same parameters"""
        url = f"{request.url.scheme}://{request.url.netloc}"
        try:
            return await self._shown(
                request, lambda selection: Response(page(selection, url), headers=HEADERS, media_type="text/html")
            )
        except DoorRefusal as refusal:
            if refusal.code is not DoorCode.UNAUTHENTICATED:
                raise
            return Response(f"{refusal.message}\n", 401, HEADERS | _ASKS, "text/plain")

    async def style(self, _request: Request) -> Response:
        """`GET /docs/page.css`"""
        return Response(style(), headers={"cache-control": "max-age=3600"}, media_type="text/css")

    async def _shown(self, request: Request, show: Callable[[Selection], Response]) -> Response:
        """What `show` makes of the endpoints that are asked for. Raises DoorRefusal."""
        caller = await self._caller(request)
        with self._gateway.room.taken(caller.namespace):
            visible = self._visible.of(self._gateway.catalogue_reader.catalogue, caller.namespace)
            asked = request.query_params
            chosen = Selection(
                visible,
                caller.namespace,
                namespace=asked.get("namespace", ""),
                endpoint=asked.get("endpoint", ""),
                has_batches=self._gateway.settings.store is not None,
            )
            # It takes a while where there are many, and nobody else is to wait for it.
            return await asyncio.to_thread(show, chosen)

    async def _caller(self, request: Request) -> Caller:
        given, shown = request.headers.getlist("authorization"), request.headers.getlist("x-api-key")
        keys = [key for one in given if (key := _password(one)) is not None]
        if keys:
            given, shown = [one for one in given if _password(one) is None], [*shown, *keys]
        return await self._gateway.identities.caller(given, shown)


def _document(selection: Selection) -> Response:
    return Response(msgspec.json.encode(document(selection)), media_type="application/json")


def _password(header: str) -> str | None:
    """The password of `Basic …`; None for anything else."""
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(text.strip(), validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
