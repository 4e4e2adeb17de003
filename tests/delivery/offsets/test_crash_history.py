"""How records that kill whole processes are found."""

from __future__ import annotations

from collections.abc import Collection

from guideway.delivery.offsets.crash_history import FATAL, GROUP, NONE, CrashHistory, new_token

WINDOW = 64
OURS = 2**31


def died(crashes: CrashHistory, low: int = 100, alive: Collection[int] = ()) -> CrashHistory:
    """An owner came, began, and was killed; as the next one sees it."""
    return crashes.noted(new_token()).taken_over(low, 0, WINDOW, alive)


def test_each_death_narrows_what_is_worked_on_until_the_lowest_is_refused() -> None:
    widths, crashes = [], NONE
    while not crashes.refuses_lowest:
        widths.append(crashes.width)
        crashes = died(crashes)
    assert widths == [None, None, GROUP, 1, 1]
    assert len(widths) == FATAL


def test_an_orderly_end_is_no_death() -> None:
    crashes = died(died(NONE))
    assert crashes.noted(OURS).ended() == crashes
    assert not crashes.begun


def test_an_idle_owner_that_is_killed_is_no_death() -> None:
    idle = NONE.noted(OURS).published(101, advanced=True, under_way=False)
    assert not idle.begun


def test_results_above_the_lowest_offset_are_no_progress_for_it() -> None:
    crashes = died(NONE).noted(OURS)
    assert crashes.published(100, advanced=False, under_way=True) == crashes
    assert died(crashes.published(100, advanced=False, under_way=True)).deaths == 2


def test_the_count_starts_anew_once_the_lowest_offset_is_finished() -> None:
    assert died(NONE).noted(OURS).published(101, advanced=True, under_way=True) == CrashHistory(begun=True, owner=OURS)


def test_care_is_taken_until_every_suspect_is_finished() -> None:
    grouped = died(died(NONE))
    assert grouped.until == 100 + WINDOW
    assert grouped.noted(OURS).published(130, advanced=True, under_way=True).width == GROUP
    assert grouped.noted(OURS).published(100 + WINDOW, advanced=True, under_way=True) == CrashHistory(
        begun=True, owner=OURS
    )
    single = died(grouped)
    assert single.until == 100 + GROUP, "it was among those that ran when the group died"
    assert single.noted(OURS).published(101, advanced=True, under_way=True).width == 1
    refused = died(died(single))
    assert refused.refuses_lowest
    assert not refused.noted(OURS).published(101, advanced=True, under_way=True).refuses_lowest, "the next one is tried"


def test_what_is_finished_above_does_not_count_among_the_suspects() -> None:
    once = NONE.noted(OURS).taken_over(100, 7, WINDOW, ())
    assert once.noted(OURS + 1).taken_over(100, 7, WINDOW, ()).until == 100 + WINDOW + 7


def test_who_is_a_member_of_the_group_has_not_died_however_late_it_handed_over() -> None:
    crashes = NONE
    for late in range(100):
        crashes = crashes.noted(OURS + late % 3).taken_over(100, 0, WINDOW, {OURS, OURS + 1, OURS + 2})
    assert crashes == NONE


def test_who_was_expelled_and_came_back_lives_after_all() -> None:
    crashes = died(died(NONE))
    for _ in range(10):
        crashes = crashes.noted(OURS).taken_over(100, 0, WINDOW, {OURS + 1})
        assert crashes.deaths == 3, "a process dies once at most"
        crashes = crashes.noted(OURS + 1).taken_over(100, 0, WINDOW, {OURS, OURS + 1})
        assert crashes.deaths == 2


def test_those_that_died_stay_dead_beside_one_that_lives() -> None:
    crashes = NONE
    while not crashes.refuses_lowest:
        crashes = died(crashes, alive={OURS}).noted(OURS).taken_over(100, 0, WINDOW, {OURS})
    assert crashes.deaths == FATAL


def test_owners_without_a_token_are_counted_one_by_one() -> None:
    crashes = NONE
    for _ in range(FATAL):
        crashes = crashes.noted(0).taken_over(100, 0, WINDOW, {OURS})
    assert crashes.refuses_lowest
