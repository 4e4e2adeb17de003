"""How records that kill whole processes are found."""

from __future__ import annotations

from guideway.delivery.suspicion import FATAL, GROUP, NONE, Suspicion

WINDOW = 64


def died(suspicion: Suspicion, low: int = 100) -> Suspicion:
    """An owner came, began, and was killed; as the next one sees it."""
    return suspicion.noted().taken_over(low, 0, WINDOW)


def test_each_death_narrows_what_is_worked_on_until_the_lowest_is_refused() -> None:
    widths, suspicion = [], NONE
    while not suspicion.refuses_lowest:
        widths.append(suspicion.width)
        suspicion = died(suspicion)
    assert widths == [None, None, GROUP, 1, 1]
    assert len(widths) == FATAL


def test_an_orderly_end_is_no_death() -> None:
    suspicion = died(died(NONE))
    assert suspicion.noted().ended() == suspicion
    assert not suspicion.begun


def test_an_idle_owner_that_is_killed_is_no_death() -> None:
    idle = NONE.noted().published(101, advanced=True, under_way=False)
    assert not idle.begun


def test_results_above_the_lowest_offset_are_no_progress_for_it() -> None:
    suspicion = died(NONE).noted()
    assert suspicion.published(100, advanced=False, under_way=True) == suspicion
    assert died(suspicion.published(100, advanced=False, under_way=True)).deaths == 2


def test_the_count_starts_anew_once_the_lowest_offset_is_finished() -> None:
    assert died(NONE).noted().published(101, advanced=True, under_way=True) == Suspicion(begun=True)


def test_care_is_taken_until_every_suspect_is_finished() -> None:
    grouped = died(died(NONE))
    assert grouped.until == 100 + WINDOW
    assert grouped.noted().published(130, advanced=True, under_way=True).width == GROUP
    assert grouped.noted().published(100 + WINDOW, advanced=True, under_way=True) == Suspicion(begun=True)
    single = died(grouped)
    assert single.until == 100 + GROUP, "it was among those that ran when the group died"
    assert single.noted().published(101, advanced=True, under_way=True).width == 1
    refused = died(died(single))
    assert refused.refuses_lowest
    assert not refused.noted().published(101, advanced=True, under_way=True).refuses_lowest, "the next one is tried"


def test_what_is_finished_above_does_not_count_among_the_suspects() -> None:
    assert NONE.noted().taken_over(100, 7, WINDOW).noted().taken_over(100, 7, WINDOW).until == 100 + WINDOW + 7
