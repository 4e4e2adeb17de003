"""Messages between a trainer and the process of one job.

The process reads one CarryOut from its standard input, and writes one Result to its standard output. It exits with 0 if
its result is final. After any other exit the trainer starts it again, up to a limit.
"""

from __future__ import annotations

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.schemas.wire import Codec
from guideway.training.runs.task import Task


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    pass


class CarryOut(_Message, frozen=True, kw_only=True, tag="carry_out"):
    """Trainer → process: begin this task, or resume it."""

    task: Task
    """Its paths are absolute."""
    folder: str
    """Folder of the run."""
    device: str
    publish: bool
    """Whether the trained guidance is published for the endpoint, by the task's publish rule."""
    within: str = ""
    """The folder in which its files must lie when they are opened; empty: they may be anywhere."""


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """Process → trainer: the run is done, and published if that was asked."""


class NotPublished(_Message, frozen=True, kw_only=True, tag="not_published"):
    """Process → trainer: the run is done, but it was not published as asked."""

    code: FailureCode
    message: str


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """Process → trainer: the run is not done."""

    code: FailureCode
    message: str
    """What to change, for a person."""


Result = Done | NotPublished | Refused

ORDER: Codec[CarryOut] = Codec(CarryOut)
RESULT: Codec[Result] = Codec(Result)
