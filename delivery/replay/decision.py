"""Decides which dead letters return to the topic that they came from, and as what. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum

import msgspec

from guideway.delivery.offsets.commit_metadata import decode
from guideway.delivery.offsets.tracker import Commit, OffsetTracker
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.names import header
from guideway.schemas.names.topics import topic_of_dead_letters
from guideway.schemas.record import Headers, Outgoing, Record, Withheld

RecordPosition = tuple[int, int]
"""(partition, offset) in the dead-letter topic."""


class Why(StrEnum):
    """Why a selected dead letter is not put back."""

    REPLAYED = "replayed_already"
    OMITTED = "left_out"
    FOREIGN = "not_ours"
    NO_ROOM = "no_room"
    MISSING = "not_there"
    NO_ENDPOINT = "no_endpoint"

    @property
    def sentence(self) -> str:
        """For people, with what to do."""
        return _SENTENCES[self]


_SENTENCES = {
    Why.REPLAYED: "replayed already: --again puts it back once more",
    Why.OMITTED: "not all of it was kept: look at its reason, and send the record again unless it is answered",
    Why.FOREIGN: "does not have the headers of a dead letter of this topic",
    Why.NO_ROOM: "no room left to note it as replayed: first replay those that stand before it",
    Why.MISSING: "no dead letter stands there",
    Why.NO_ENDPOINT: "there is no such endpoint any more, so it would be refused once more: apply the endpoint first",
}


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What `dead_letter` wrote, read back. `topic` to `timestamp_ms` say where and when the record stood."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    code: str
    message: str
    omitted: tuple[str, ...]
    """Which of key, value and headers were too large to keep."""
    headers: Headers
    """The record's own."""


def code_of(record: Record) -> str:
    """The failure code of a dead letter; empty where it says none."""
    return (record.header(header.DEAD_LETTER_PREFIX + "code") or b"").decode(errors="replace")


def read_back(record: Record) -> DeadLetter | None:
    """The dead letter that a record of a dead-letter topic is; None where it was not written by `dead_letter`.

    A record may have had such headers itself, as a dead letter of a dead letter has. Ours are its last ones and begin
    with the topic, which we add once: what stands before the last of that name is the record's own.
    """
    first = header.DEAD_LETTER_PREFIX + "topic"
    at = max((i for i, (name, _) in enumerate(record.headers) if name == first), default=None)
    if at is None:
        return None
    added = record.headers[at:]
    if not all(name.startswith((header.DEAD_LETTER_PREFIX, header.CONNECT_ERROR_PREFIX)) for name, _ in added):
        return None
    try:
        ours = {name: (value or b"").decode() for name, value in added}
        said = {name.removeprefix(header.DEAD_LETTER_PREFIX): value for name, value in ours.items()}
        return DeadLetter(
            topic=said["topic"],
            partition=int(said["partition"]),
            offset=int(said["offset"]),
            timestamp_ms=int(said["timestamp_ms"]),
            code=said["code"],
            message=said["message"],
            omitted=tuple(part for part in said.get("omitted", "").split(",") if part),
            headers=tuple(record.headers[:at]),
        )
    except (KeyError, ValueError):
        return None


def original_of(record: Record) -> Outgoing | Why:
    """The record as it was before it became this dead letter, on the partition where it stood; or why it cannot be had.

    It only ever goes back to the topic whose dead letters these are: a header must not choose where we write.
    """
    letter = read_back(record)
    if isinstance(record.value, Withheld):
        return Why.FOREIGN
    if letter is None or letter.topic != topic_of_dead_letters(record.topic) or letter.partition < 0:
        return Why.FOREIGN
    if letter.omitted:
        return Why.OMITTED
    # aiokafka refuses a record with neither key nor value, and `dead_letter` gives it an empty value as well.
    value = b"" if record.key is None and record.value is None else record.value
    out = Outgoing(topic=letter.topic, key=record.key, value=value, headers=letter.headers, partition=letter.partition)
    # Larger than any that `dead_letter` lets through: somebody else's, and no producer of ours would take it.
    return out if out.size_bytes <= MAX_RECORD_BYTES else Why.FOREIGN


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters of a topic are meant."""

    code: FailureCode | None = None
    """Those with this code; None: with any."""
    places: frozenset[RecordPosition] = frozenset()
    """Those that stand here; empty: anywhere."""
    again: bool = False
    """Also those that were replayed already."""
    orphaned: Callable[[Outgoing], bool] = lambda _: False
    """Whether the endpoint of a record, as it would go back, is gone: then it stays."""

    def wants(self, record: Record) -> bool:
        here = not self.places or (record.partition, record.offset) in self.places
        return here and (self.code is None or code_of(record) == self.code)


class Replayed(msgspec.Struct, frozen=True):
    """Which offsets of a dead-letter partition were put back: all below `low`, and those in `done`."""

    low: int = 0
    done: frozenset[int] = frozenset()

    @staticmethod
    def of_commit(offset: int, metadata: str | None) -> Replayed:
        """What a replay has committed. Raises UnreadableCommitMetadata."""
        return Replayed(offset, decode(offset, metadata)[0])

    def __contains__(self, offset: int) -> bool:
        return offset < self.low or offset in self.done


def decide(record: Record, selection: Selection, replayed: Replayed) -> Outgoing | Why | None:
    """What a replay does with one dead letter: put this back, skip it and say why, or nothing: it was not selected."""
    if not selection.wants(record):
        return None
    if record.offset in replayed and not selection.again:
        return Why.REPLAYED
    found = original_of(record)
    return Why.NO_ENDPOINT if isinstance(found, Outgoing) and selection.orphaned(found) else found


class Ledger:
    """Notes which dead letters of one partition are put back. Owned by one replay of that partition.

    What was read and not put back stays unfinished, however often somebody replays around it.

    Between dead letters stand markers and aborted records. Each such gap is finished with the dead letter before it:
    so the metadata grows with the changes between put back and not, and not with the number of transactions.
    """

    def __init__(self, replayed: Replayed, first: int) -> None:
        """`first`: the first offset that the partition still has; retention has taken what was before."""
        low = max(first, replayed.low)
        self._tracker = OffsetTracker(low, replayed.done)
        self._next = low
        self._gap_after: dict[int, list[int]] = {}
        self._settled: list[int] = []
        """Gaps after what is finished already."""

    def receive(self, offset: int) -> None:
        """A dead letter was read; they come in order of offset."""
        before = self._next - 1
        if pending := self._tracker.pending:
            known = before not in pending
            gap = [one for one in range(self._next, offset) if self._tracker.receive(one)]
            if known:
                self._settled += gap
            elif gap:
                self._gap_after[before] = gap
        self._tracker.receive(offset)
        self._next = max(self._next, offset + 1)

    def commit_of(self, offsets: Collection[int], max_metadata_chars: int) -> tuple[list[int], Commit]:
        """As many of these dead letters, lowest first, as a commit has room for, and that commit."""
        if self._settled:
            self._tracker.apply(self._tracker.commit_of(self._settled))
            self._settled = []
        gaps = [one for offset in offsets for one in self._gap_after.get(offset, ())]
        chosen, commit = self._tracker.largest_commit([*offsets, *gaps], max_metadata_chars)
        return sorted(set(offsets).intersection(chosen)), commit

    def apply(self, commit: Commit) -> None:
        """The transaction with this commit has ended well."""
        self._tracker.apply(commit)
