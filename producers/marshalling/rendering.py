"""Renders events in threads, so that a costly template holds up only its own namespace."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from guideway.producers.marshalling.marshal import Rendered, render
from guideway.producers.marshalling.template import parse
from guideway.schemas.event import Event
from guideway.schemas.manifests import Endpoint


class Rendering:
    """Renders one event of a namespace at a time, in a thread; without one where a template only puts fields in."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def render(self, event: Event, endpoint: Endpoint) -> Rendered:
        """Raises Refusal, as `marshal.render` does."""
        if parse(endpoint.input.template).is_plain:
            return render(event, endpoint)
        turn = self._turns.setdefault(endpoint.namespace, asyncio.Lock())
        async with turn:
            return await asyncio.to_thread(render, event, endpoint)
