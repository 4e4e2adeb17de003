"""Bounds and timeouts of delivery. Names end in their unit; times are seconds."""

from __future__ import annotations

import msgspec

from guideway.delivery.connection.cluster import Cluster


class DeliverySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and timeouts of one pipeline."""

    cluster: Cluster
    capacity: int = 64
    """Records that are worked on at a time, over all partitions."""
    partition_capacity: int = 512
    """Records of one partition that are unfinished or unpublished. It bounds memory, and the metadata of commits."""
    resting_capacity: int = 256
    """Records of one partition whose work may wait for something else at a time (`AssignedPartitions.resting`)."""
    held_bytes: int = 128 * 2**20
    """Bytes of records taken in and of their results, over all partitions, until these are published."""
    flush_bytes: int = 16 * 2**20
    """Bytes of results in one transaction. A single larger result has a transaction of its own."""
    flush_interval_s: float = 0.02
    """The first result after a rest waits so long for others to share its transaction; each other one waits at least so
    long while more are to come."""
    flush_share: float = 0.05
    """A result waits for others for this share of the time that it took, if that is more, while other work of its
    partition runs. Who waited long hardly notices, and the brokers have fewer transactions to do."""
    max_flush_interval_s: float = 0.5
    """A result waits for others no longer than this."""
    flush_results: int = 256
    """Results in one transaction."""
    max_metadata_chars: int = 3_800
    """The longest metadata of a commit; brokers refuse more than 4,096 by default (`offset.metadata.max.bytes`)."""
    pause_metadata_chars: int = 3_072
    """Where the last commit's metadata is longer, no record is taken in until older ones are finished."""
    session_timeout_s: float = 10.0
    """Of the consumer: a member without a heartbeat for so long is expelled from the group."""
    transaction_timeout_s: float = 30.0
    """The broker aborts a transaction that is open for longer."""
    open_timeout_s: float = 30.0
    """For each step of opening a partition."""
    flush_timeout_s: float = 20.0
    """For one transaction."""
    revoke_timeout_s: float = 3.0
    """For the last flush of a partition that is taken away."""
    drain_timeout_s: float = 30.0
    """For running work at shutdown."""
    max_backoff_s: float = 10.0
    """Between attempts to open a partition."""
    rejoin_interval_s: float = 20.0
    """The least time between two requests for a new assignment, after another process took a partition's lock."""
    idle_s: float = 2.0
    """After a rest of so long, a moved low watermark is committed without results, and held dead letters are tried."""
    hold_s: float = 5.0
    """A dead letter that could not be sent is tried again after so long; each time it is twice as long."""
    max_hold_s: float = 60.0
    """The longest such wait."""
    stall_s: float = 120.0
    """Without progress for so long, the process ends with exit code 75, to be started again."""

    def __post_init__(self) -> None:
        if min(self.capacity, self.partition_capacity, self.flush_results) < 1:
            raise ValueError("capacity, partition_capacity and flush_results are at least 1")


MAX_RECORD_BYTES = 1_000_000
"""The largest record that we publish; brokers and aiokafka refuse more than 1 MiB by default."""
MAX_REQUEST_BYTES = MAX_RECORD_BYTES + 48_576
"""Of a producer: such a record, and what its batch adds. 1 MiB."""

BATCH_BYTES = 2**17
"""Records of one partition that are sent together. A transaction then takes one request to a broker, not one for every
16 KiB in turn, which is aiokafka's default."""

MAX_READ_BYTES = 8 * 2**20
"""The largest record that our topics take, and that we read: an event with the longest text that a manifest may allow,
escaped. A compressed batch may hold larger ones."""
MAX_HEADERS = 1_000
"""The most headers of a record over 256 KiB: a header of two bytes becomes a hundred in memory."""
