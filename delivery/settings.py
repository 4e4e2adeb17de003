"""Settings of the delivery."""

from __future__ import annotations

import msgspec


class DeliverySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and timeouts of one pipeline."""

    bootstrap: str
    capacity: int = 64
    """Records being worked on at a time, over all partitions."""
    partition_capacity: int = 512
    """Unfinished or unpublished records of one partition: bounds its memory and its commit's metadata."""
    held_bytes: int = 128 * 2**20
    """Of the records taken in and of what came of them, over all partitions, until it is published."""
    flush_bytes: int = 16 * 2**20
    """Of the results in one transaction, unless a single one has more."""
    flush_interval_s: float = 0.02
    """How long a partition that had nothing to publish waits for others to share the first result's transaction."""
    flush_share: float = 0.05
    """Share of the time a result took for which it waits, if that is more, while other work of its partition runs.
    Who waited long anyhow hardly notices, and the brokers have fewer transactions to do."""
    max_flush_interval_s: float = 0.5
    """How long that share is at most."""
    flush_results: int = 256
    """Results in one transaction."""
    max_metadata_chars: int = 3_800
    """Of a commit; brokers refuse more than 4,096 by default (`offset.metadata.max.bytes`)."""
    pause_metadata_chars: int = 3_072
    """Of the last commit, from which on no more records are taken in until older ones are finished."""
    session_timeout_s: float = 10.0
    transaction_timeout_s: float = 30.0
    open_timeout_s: float = 30.0
    flush_timeout_s: float = 20.0
    revoke_timeout_s: float = 3.0
    """For the last flush of a partition that is taken away."""
    drain_timeout_s: float = 30.0
    """For running work at shutdown."""
    max_backoff_s: float = 10.0
    """Between attempts to open a partition."""
    rejoin_interval_s: float = 20.0
    """At least, between asking the group for a new assignment because another process took a partition's lock."""
    idle_s: float = 2.0
    """Without results for so long, what can be committed without any is committed, and what is held is looked at."""
    hold_s: float = 5.0
    """Until a dead letter that could not be sent is tried again; it doubles from time to time."""
    max_hold_s: float = 60.0
    """How long that is at most."""
    stall_s: float = 120.0
    """Without progress for so long, the process ends with exit code 75, to be started again."""

    def __post_init__(self) -> None:
        if not self.bootstrap:
            raise ValueError("bootstrap is empty: name the brokers, HOST:PORT with commas")
        if min(self.capacity, self.partition_capacity, self.flush_results) < 1:
            raise ValueError("capacity, partition_capacity and flush_results are at least 1")


MAX_RECORD_BYTES = 1_000_000
"""Of a record that we publish; brokers and aiokafka refuse more than 1 MiB by default."""

MAX_READ_BYTES = 8 * 2**20
"""Of a record that we read: what our topics take (`infra/topics.py`). A compressed batch may hold larger ones."""
MAX_HEADERS = 1_000
"""Of a record over 256 KiB: a header of two bytes becomes a hundred in memory."""
