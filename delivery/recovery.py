"""Decides what a partition does after its opening or a transaction has failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiokafka import errors
from aiokafka.errors import KafkaError, ProducerFenced

from guideway.delivery.connection.trouble import found
from guideway.delivery.guards.transaction_guards import OutcomeUnknown, TopicsRefused
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata

_NotAllowed = (
    errors.TransactionalIdAuthorizationFailed
    | errors.GroupAuthorizationFailedError
    | errors.ClusterAuthorizationFailedError
)
"""The brokers answer, and refuse until somebody changes their rules; so they do who do not let us in."""
_FIRST_PAUSE_S: Final = 0.1


@dataclass(frozen=True)
class Reopen:
    """Make a new producer after `wait_s`, and read what was committed."""

    wait_s: float
    expected: bool
    """Brokers come and go with such errors. Any other is a fault of ours, and is logged with its stack trace."""
    helps: bool = True
    """A new process could do better. If not, the watchdog lets this one wait."""


@dataclass(frozen=True)
class Rejoin:
    """Stay closed until the group has said again whose the partition is.

    Another process has the lock. If it is the rightful owner, taking the lock back would only take turns with it.
    """


def after_failure(error: Exception, failures: int, max_backoff_s: float) -> Reopen | Rejoin:
    """What to do after the `failures`-th failure in a row."""
    if isinstance(error, ProducerFenced) and not isinstance(error, OutcomeUnknown | TopicsRefused):
        return Rejoin()
    if isinstance(error, UnreadableCommitMetadata | _NotAllowed) or found(error) is not None:
        return Reopen(max_backoff_s, expected=True, helps=False)
    # Bounded before it is raised: a broker may be away for days, and no float holds 2**1024.
    wait_s = min(max_backoff_s, _FIRST_PAUSE_S * 2 ** min(failures - 1, 10))
    return Reopen(wait_s, expected=isinstance(error, KafkaError | OSError | TimeoutError))
