"""What provokes a failure, what comes of it, and how that is shown."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guideway.schemas.failures import FailureCode, Refusal

if TYPE_CHECKING:
    from tests.codes.end_to_end import EndToEnd

Provoke = Callable[["EndToEnd"], Awaitable[Refusal]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cause of one code. A code with several causes has several cases."""

    code: FailureCode
    example: str
    """What provokes it, in Markdown; made of the very event or manifest that is sent."""
    remedy: str
    """What to do, and whose it is."""
    provoke: Provoke
    """Does it, and returns what came."""


_VARYING = (
    (re.compile(rf"{re.escape(tempfile.gettempdir())}/\S*?(?=/[\w.]+(?:[\s,:)]|$))"), "FOLDER"),
    (re.compile(r"sha256:[0-9a-f]+…?"), "sha256:…"),
    (re.compile(r"127\.0\.0\.1:\d{4,5}\b"), "127.0.0.1:PORT"),
    (re.compile(r"\b\d+ ms\b"), "N ms"),
    (re.compile(r"has \d{6,} bytes, 1000000 can be sent: \d+ of them"), "has N bytes, 1000000 can be sent: M of them"),
)


def steady(message: str) -> str:
    """The message without what differs from run to run: folders, ports, digests, times."""
    for pattern, instead in _VARYING:
        message = pattern.sub(instead, message)
    return message


def likened(message: str) -> str:
    """The message without its numbers: how far a model comes may differ from one machine to the next."""
    return re.sub(r"\d+(\.\d+)?", "N", message)
