"""Between a trainer and the process of one job: what is to be done, on its standard input; what came of it, on its
standard output. One message each. The process exits with 0 where its result is final, and otherwise is started again.
"""

from __future__ import annotations

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.schemas.wire import Codec
from guideway.training.runs.task import Task


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    pass


class CarryOut(_Message, frozen=True, kw_only=True, tag="carry_out"):
    """Trainer → process: carry out this task, or go on with it."""

    task: Task
    """Its paths are absolute."""
    folder: str
    """The run's."""
    device: str
    publish: bool
    """Whether the endpoint gets what was trained, by the task's publish rule."""


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """Process → trainer: all of it is done, and published where that was asked."""


class NotPublished(_Message, frozen=True, kw_only=True, tag="not_published"):
    """Process → trainer: the run is done, and was to be published and is not."""

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
