"""The refusal that the sender gets when an error ends a request."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Final

import structlog
import torch

from guideway.schemas.failures import FailureCode, Refusal

_OURS: Final = "the engine failed on this request, which is a fault of guideway's: report it with the request's id"
_NO_MEMORY: Final = (
    "there was not enough memory to run this request beside the others: shorten its text, lower max_tokens, or give "
    "the worker more memory"
)
_NOT_A_FAULT: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
_SAID_BY_TORCH: Final = ("can't allocate memory", "out of memory", "not enough memory")
_REASON_CHARS: Final = 300

log = structlog.get_logger()


def refusal_of(error: BaseException, *, id: str) -> Refusal:
    """The refusal for an error of the request with this id.

    A Refusal is returned as it is. Anything else is logged; it is `engine_failed` if memory lacked, else
    `internal_error`.

    Raises: `error` itself if it is an order to end, such as KeyboardInterrupt.
    """
    if isinstance(error, _NOT_A_FAULT):
        raise error
    if isinstance(error, Refusal):
        return error
    # Where it happened, and not the message, which may quote the text.
    log.error("request failed", id=id, error=type(error).__name__, at=traceback.format_tb(error.__traceback__))
    if _lacks_memory(error):
        return Refusal(FailureCode.ENGINE_FAILED, _NO_MEMORY)
    return Refusal(FailureCode.INTERNAL_ERROR, _OURS)


@contextlib.contextmanager
def refusing(id: str, refuse: Callable[[Refusal], None]) -> Iterator[None]:
    """A context in which an exception concerns the request with this id alone: `refuse` is called with its refusal.

    Raises: as `refusal_of`.
    """
    try:
        yield
    # A library in Rust that panics raises a BaseException that is no Exception.
    except BaseException as error:
        refuse(refusal_of(error, id=id))


def unsatisfiable(reason: str) -> Refusal:
    """The refusal of an output rule, with llguidance's reason in one line."""
    reason = " ".join(reason.replace("<non-verbose/>", "").split())[:_REASON_CHARS]
    return Refusal(FailureCode.OUTPUT_UNSATISFIABLE, f"the output rule cannot be satisfied ({reason}): change the rule")


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_BY_TORCH)
