"""A factory for requests, and a system on each kind of broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.workers.end_to_end import EndToEnd, end_to_end_of

from guideway.infra.local_broker import RunningBroker
from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request


@pytest.fixture
def make_request() -> Callable[..., Request]:
    def make(text: str = "hello", **fields: Any) -> Request:
        defaults: dict[str, Any] = {
            "id": "r",
            "namespace": "team",
            "endpoint": "task",
            "endpoint_version": 2,
            "parts": [Part(kind="input", source="caller", text=text)],
            "guidance": [],
            "output": Text(),
            "words": [],
            "generation": Generation(),
            "reply_to": [ReplyAddress(topic="gw.team.task.out.v1")],
            "deadline_ms": None,
        }
        return Request(**defaults | fields)

    return make


@pytest.fixture
async def system(broker: RunningBroker, unique_name: str, tmp_path: Path) -> AsyncIterator[EndToEnd]:
    async with end_to_end_of(broker.cluster, unique_name, tmp_path) as made:
        yield made
