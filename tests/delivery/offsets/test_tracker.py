"""The tracker and its metadata against a model that remembers everything."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata, _integers, decode, encode
from guideway.delivery.offsets.crash_history import NONE, CrashHistory
from guideway.delivery.offsets.tracker import Commit, OffsetTracker

offsets = st.integers(0, 60)


@given(low=st.integers(0, 2**40), gaps=st.lists(st.integers(1, 5000), max_size=300))
def test_metadata_reads_back(low: int, gaps: list[int]) -> None:
    done, at = set(), low
    for gap in gaps:
        at += gap
        done.add(at)
    assert decode(low, encode(low, done)) == (frozenset(done), NONE)


@given(st.text(max_size=60))
def test_foreign_metadata_is_never_taken_for_a_set(text: str) -> None:
    if text:
        with pytest.raises(UnreadableCommitMetadata):
            decode(0, text)


@pytest.mark.parametrize(
    "lengths", [[], [0], [0, 0, 1], [0, 0, 1, 2**62], [2**62, 0], [0, 0, *[0, 2**23] * 2]], ids=str
)
def test_lengths_that_no_program_writes_are_refused_before_they_take_memory(lengths: list[int]) -> None:
    body = bytearray()
    for length in lengths:
        rest = length
        while rest > 0x7F:
            body.append(0x80 | rest & 0x7F)
            rest >>= 7
        body.append(rest)
    with pytest.raises(UnreadableCommitMetadata):
        decode(0, f"2:{zlib.crc32(body):08x}:{base64.b64encode(body).decode()}")


def test_metadata_size_is_bounded_by_what_is_unfinished_not_by_the_window() -> None:
    finished = set(range(1, 1_000_000)) - {5, 77_000, 500_000}
    assert len(encode(0, finished)) < 60


def test_a_done_offset_at_low_is_never_forgotten() -> None:
    tracker = OffsetTracker(5, {6, 8})
    assert [tracker.receive(offset) for offset in (5, 6, 7, 8, 9)] == [True, False, True, False, True]
    commit = tracker.commit_of([7])
    assert commit == Commit(5, frozenset({6, 7, 8}))
    tracker.apply(commit)
    commit = tracker.commit_of([5])
    assert commit == Commit(9, frozenset())


def test_offsets_that_never_arrive_do_not_hold_the_rest_up() -> None:
    tracker = OffsetTracker(0)
    tracker.receive(0)
    tracker.receive(3)  # 1 and 2 were transaction markers
    assert tracker.commit_of([0, 3]).low == 4


def test_nothing_is_committed_beyond_what_was_received() -> None:
    tracker = OffsetTracker(10, {12})
    assert tracker.low == 10
    tracker.receive(10)
    assert tracker.commit_of([10]).low == 11, "11 may still come"


def test_adopted_work_is_not_begun_twice() -> None:
    tracker = OffsetTracker(4, {6})
    assert tracker.adopt(5)
    assert not tracker.adopt(6), "somebody else finished it"
    assert not tracker.adopt(3)
    assert [tracker.receive(offset) for offset in (4, 5, 6, 7)] == [True, False, False, True]


def test_results_are_held_back_when_metadata_would_overflow() -> None:
    tracker = OffsetTracker(0)
    for offset in range(4000):
        tracker.receive(offset)
    odd = list(range(1, 4000, 2))
    chosen, commit = tracker.largest_commit(odd, 300)
    assert 0 < len(chosen) < len(odd)
    assert chosen == odd[: len(chosen)]
    assert len(commit.metadata) <= 300
    # The lowest pending offset can always be finished, so no state is one that cannot be left.
    chosen, commit = tracker.largest_commit([0], 0)
    assert chosen == [0]
    assert commit.low == 1


@given(st.data())
def test_every_offset_is_finished_once_over_crashes_and_any_order(data: st.DataObject) -> None:
    """Receive, finish and commit in random order; a crash restarts from the last commit."""
    total = data.draw(st.integers(1, 40))
    committed_low, committed_done = 0, frozenset[int]()
    published: list[int] = []
    tracker, fetch = OffsetTracker(0), 0
    running: set[int] = set()
    for _ in range(400):
        step = data.draw(st.sampled_from(["receive", "commit", "crash"]))
        if step == "receive" and fetch < total:
            if tracker.receive(fetch):
                running.add(fetch)
            fetch += 1
        elif step == "commit" and running:
            finishing = data.draw(st.sets(st.sampled_from(sorted(running)), min_size=1))
            commit = tracker.commit_of(finishing)
            committed_low, committed_done = commit.low, decode(commit.low, commit.metadata)[0]
            published += finishing
            tracker.apply(commit)
            running -= finishing
        elif step == "crash":
            tracker, fetch, running = OffsetTracker(committed_low, committed_done), committed_low, set()
        if len(published) == total:
            break
    assert len(published) == len(set(published)), "no result twice"
    # What is left to do is exactly what was not published.
    rest = OffsetTracker(committed_low, committed_done)
    left = {offset for offset in range(committed_low, total) if rest.receive(offset)}
    assert left == set(range(total)) - set(published)


tokens = st.integers(1, 2**34)
histories = st.builds(
    CrashHistory, dead=st.lists(tokens, max_size=9, unique=True).map(tuple), begun=st.booleans(), owner=tokens
)


@given(low=st.integers(0, 2**40), crashes=histories, reach=st.integers(0, 5000), done=st.sets(st.integers(0, 99)))
def test_a_crash_history_reads_back_beside_the_set(low: int, crashes: CrashHistory, reach: int, done: set[int]) -> None:
    finished = frozenset(low + offset for offset in done)
    owner = crashes.owner if crashes.begun else 0
    told = CrashHistory(crashes.dead, low + reach if reach else 0, crashes.begun, owner)
    # A reach without deaths or work is nothing to remember.
    told = told if told.deaths or told.begun or finished else NONE
    assert decode(low, encode(low, finished, told)) == (finished, told)


def test_metadata_of_the_version_before_is_read() -> None:
    assert decode(351, "1:5db5739d:AFE=") == (frozenset(range(351, 432)), NONE)


@given(low=st.integers(0, 2**40), crashes=histories, done=st.sets(st.integers(0, 99)))
def test_a_program_that_knows_no_tokens_reads_the_rest(low: int, crashes: CrashHistory, done: set[int]) -> None:
    """As the one before did: runs of which nothing is finished say nothing to it."""
    finished = frozenset(low + offset for offset in done)
    metadata = encode(low, finished, crashes)
    if not metadata:
        return
    first, reach, *lengths = _integers(base64.b64decode(metadata.split(":")[2]))
    read, at = set[int](), low
    for skipped, run in zip(lengths[::2], lengths[1::2], strict=True):
        at += skipped
        read.update(range(at, at + run))
        at += run
    assert (first // 2, bool(first % 2), reach) == (crashes.deaths, crashes.begun, 0)
    assert read == finished


def test_what_a_program_without_tokens_wrote_counts_as_before() -> None:
    body = bytes([2 * 3 + 1, 9, 1, 2])
    metadata = f"2:{zlib.crc32(body):08x}:{base64.b64encode(body).decode()}"
    done, crashes = decode(100, metadata)
    assert (done, crashes) == (frozenset({101, 102}), CrashHistory((1, 2, 3), 109, begun=True, owner=0))
    assert crashes.taken_over(100, 2, 64, {2**31}).deaths == 4
