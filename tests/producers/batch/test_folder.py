"""The folder of a job in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.stored import Damaged, Part
from guideway.schemas.services.batch import Counts


@pytest.mark.parametrize("store", ["memory://jobs-{}", "{}"], ids=["memory", "folder"])
def test_whoever_goes_on_with_a_job_finds_the_pieces_that_are_finished(store: str, tmp_path: Path) -> None:
    folder = JobFolder(store.format(tmp_path), "night", "batch-1")
    assert folder.finished().counts == Counts()
    for number in (0, 2):
        folder.put_part(number, Part(Counts(sent=1, completed=1), 1, {0: b"{}"}))
    found = folder.finished()
    assert [found.is_whole(number) for number in range(4)] == [True, False, True, False]
    assert found.counts == Counts(sent=2, completed=2)


@pytest.mark.parametrize("store", ["memory://parts-{}", "{}"], ids=["memory", "folder"])
def test_a_row_that_two_parts_have_counts_once(store: str, tmp_path: Path) -> None:
    """A batcher that does not know yet that it has lost the job writes what the other writes too."""
    folder = JobFolder(store.format(tmp_path), "night", "batch-1")
    folder.put_part(0, Part(Counts(sent=2, completed=2), 3, {2: b"c", 0: b"aa"}))
    folder.put_part(0, Part(Counts(sent=1, completed=1), 3, {2: b"c"}))
    found = folder.finished()
    assert not found.is_whole(0)
    assert [found.has(0, place) for place in range(3)] == [True, False, True]
    assert found.counts.completed in (2, 3), "in which order they are found is open"
    folder.put_part(0, Part(Counts(sent=1, completed=1), 3, {1: b"bbb"}))
    assert folder.finished().is_whole(0)
    results = folder.results_of(folder.parts()[0])
    assert [results.reply(place) for place in range(3)] == [b"aa", b"bbb", b"c"]
    assert sorted(results.came) == [0, 1, 2]
    results.close()


def test_a_part_that_was_cut_off_is_not_taken_for_results(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path), "night", "batch-1")
    folder.put_part(0, Part(Counts(sent=1, completed=1), 1, {0: b"{}"}))
    path = Path(folder.path) / "results" / "00000000"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged):
        folder.results_of(folder.parts()[0]).reply(0)


def test_deaths_count_until_another_piece_is_finished(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path), "shop", "job")
    assert [folder.died() for _ in range(3)] == [1, 2, 3]
    folder.put_part(0, Part(Counts(), 1, {0: b"{}"}))
    assert [folder.died() for _ in range(2)] == [1, 2]
