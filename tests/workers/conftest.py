"""A factory for requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
