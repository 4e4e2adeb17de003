"""Renders events in threads, so that a costly template holds up only its own namespace."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from guideway.producers.marshalling.marshal import Rendered, render
from guideway.producers.marshalling.template import template_of
from guideway.schemas.event import Event
from guideway.schemas.manifests import Endpoint

_LONG_CHARS: Final = 2000
"""A longer template may take most of a second to parse."""


class Rendering:
    """Renders one event of a namespace at a time, in a thread; without one where a template only puts fields in."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def render(self, event: Event, endpoint: Endpoint, caller: str) -> Rendered:
        """caller: the namespace whose event it is. Raises Refusal, as `marshal.render` does."""
        turn = self._turns.setdefault(caller, asyncio.Lock())
        if len(endpoint.input.template) <= _LONG_CHARS:
            template = template_of(endpoint)
        else:
            async with turn:
                template = await asyncio.to_thread(template_of, endpoint)
        if template.is_plain:
            return render(event, endpoint)
        async with turn:
            return await asyncio.to_thread(render, event, endpoint)
