"""What follows when a partition's transaction, or its opening, fails. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiokafka import errors
from aiokafka.errors import KafkaError, ProducerFenced

from guideway.delivery.guards.transaction_guards import OutcomeUnknown, TopicsRefused
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata

_NotAllowed = (
    errors.TransactionalIdAuthorizationFailed
    | errors.GroupAuthorizationFailedError
    | errors.ClusterAuthorizationFailedError
)
"""The brokers answer, and somebody has to change their rules."""
_FIRST_PAUSE_S: Final = 0.1


@dataclass(frozen=True)
class Reopen:
    """Make a new producer after `wait_s`, and read what was committed."""

    wait_s: float
    expected: bool
    """Brokers come and go; anything else is a fault of ours and is shown with where it happened."""
    helps: bool = True
    """Whether a new process could do better: if not, this one is no worse for waiting."""


@dataclass(frozen=True)
class Rejoin:
    """Stay closed until the group has said again whose the partition is.

    To take the lock back at once would be a tug-of-war with a rightful owner.
    """


def after_failure(error: Exception, failures: int, max_backoff_s: float) -> Reopen | Rejoin:
    """What to do after the `failures`-th failure in a row."""
    if isinstance(error, ProducerFenced) and not isinstance(error, OutcomeUnknown | TopicsRefused):
        return Rejoin()
    if isinstance(error, UnreadableCommitMetadata | _NotAllowed):
        return Reopen(max_backoff_s, expected=True, helps=False)
    # Bounded before it is raised: a broker may be away for days, and no float holds 2**1024.
    wait_s = min(max_backoff_s, _FIRST_PAUSE_S * 2 ** min(failures - 1, 10))
    return Reopen(wait_s, expected=isinstance(error, KafkaError | OSError | TimeoutError))
