"""When a partition publishes, with literal times: no loop, no clock, no Kafka."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.publishing.publish_schedule import (
    NoteBeginning,
    NoteEnd,
    Publish,
    PublishSchedule,
    Situation,
    Wait,
)
from guideway.delivery.settings import DeliverySettings

# Powers of two, so that sums of times are exact.
SETTINGS = DeliverySettings(
    cluster=Cluster("b"),
    flush_interval_s=0.25,
    flush_share=0.125,
    max_flush_interval_s=2.0,
    flush_results=3,
    idle_s=8.0,
)
NOTHING = Situation(running=0, finished=0)
NOTED = Situation(running=0, finished=0, may_begin=True, has_noted=True, note_stands=True)
ONE_OF_TWO = replace(NOTED, running=1, finished=1)


def busy() -> PublishSchedule:
    """Of a partition that has just opened."""
    return PublishSchedule(SETTINGS)


def resting(since: float) -> PublishSchedule:
    """Of a partition that found nothing to publish."""
    schedule = busy()
    assert schedule.next(NOTHING, since) == Publish()
    schedule.found_nothing(since)
    return schedule


def test_an_open_partition_looks_at_once_for_results() -> None:
    assert busy().next(NOTHING, 7.0) == Publish()


def test_without_results_it_rests_and_then_commits_what_needs_none() -> None:
    schedule = resting(since=10.0)
    assert schedule.next(NOTHING, 10.0) == Wait(18.0)
    assert schedule.next(NOTHING, 11.0) == Wait(18.0)
    assert schedule.next(NOTHING, 18.0) == Publish(tidy=True)


def test_the_first_result_after_a_rest_waits_for_others() -> None:
    schedule = resting(since=10.0)
    schedule.result_came(took_s=0.1, now=11.0)
    finished = replace(NOTED, finished=1)
    assert schedule.next(finished, 11.0) == Wait(11.25)
    assert schedule.next(finished, 11.25) == Publish()


def test_a_result_that_came_just_before_the_rest_waits_from_its_beginning() -> None:
    schedule = busy()
    assert schedule.next(NOTHING, 10.0) == Publish()
    schedule.result_came(took_s=0.1, now=10.25)
    schedule.found_nothing(10.5)
    assert schedule.next(replace(NOTED, finished=1), 10.5) == Wait(10.75)


@pytest.mark.parametrize(
    ("took_s", "published_at"),
    [
        pytest.param(0.1, 100.25, id="flush_interval_s at least"),
        pytest.param(8.0, 101.0, id="flush_share of what it took"),
        pytest.param(60.0, 102.0, id="max_flush_interval_s at most"),
    ],
)
def test_a_result_waits_for_a_share_of_what_it_took(took_s: float, published_at: float) -> None:
    schedule = busy()
    schedule.result_came(took_s, now=100.0)
    assert schedule.next(ONE_OF_TWO, 100.0) == Wait(published_at)
    assert schedule.next(ONE_OF_TWO, published_at) == Publish()


def test_the_most_impatient_result_decides() -> None:
    schedule = busy()
    schedule.result_came(took_s=8.0, now=100.0)
    schedule.result_came(took_s=0.1, now=100.125)
    schedule.result_came(took_s=8.0, now=100.25)
    assert schedule.next(replace(ONE_OF_TWO, finished=2), 100.25) == Wait(100.375)


@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(replace(ONE_OF_TWO, running=0), id="no other result will come"),
        pytest.param(replace(ONE_OF_TWO, finished=3), id="enough for a transaction"),
        pytest.param(replace(ONE_OF_TWO, may_begin=False, has_noted=True, leaving=True), id="no other may begin"),
    ],
)
def test_a_result_does_not_wait_in_vain(situation: Situation) -> None:
    schedule = busy()
    schedule.result_came(took_s=8.0, now=100.0)
    assert schedule.next(replace(situation, note_stands=False), 100.0) == Publish()


def test_what_a_transaction_left_over_is_published_at_once() -> None:
    schedule = busy()
    schedule.result_came(took_s=8.0, now=100.0)
    assert schedule.next(replace(ONE_OF_TWO, finished=3), 100.0) == Publish()
    assert schedule.next(ONE_OF_TWO, 100.25) == Publish()


def test_what_comes_during_a_transaction_waits_as_well() -> None:
    schedule = busy()
    assert schedule.next(ONE_OF_TWO, 100.0) == Publish()
    schedule.result_came(took_s=8.0, now=100.25)
    assert schedule.next(ONE_OF_TWO, 100.5) == Wait(101.25)


# Notes that work is under way -----------------------------------------------------------------------------------------


def test_that_work_begins_is_noted_a_little_after_a_rest_and_then_results_are_gathered() -> None:
    schedule = resting(since=10.0)
    begins = replace(NOTHING, running=1)
    assert schedule.next(begins, 11.0) == Wait(11.25)
    assert schedule.next(begins, 11.25) == NoteBeginning()
    assert schedule.next(replace(NOTED, running=1), 11.5) == Publish()


def test_that_work_begins_is_noted_at_once_without_a_rest() -> None:
    schedule = busy()
    schedule.result_came(took_s=8.0, now=100.0)
    assert schedule.next(Situation(running=1, finished=1, has_noted=True), 100.0) == NoteBeginning()
    assert schedule.next(ONE_OF_TWO, 100.0) == Wait(101.0), "the result that is here still waits for others"


def test_a_process_that_is_told_to_end_takes_its_note_back_and_notes_nothing_more() -> None:
    schedule = busy()
    leaving = replace(NOTED, running=2, leaving=True)
    assert schedule.next(leaving, 5.0) == NoteEnd()
    assert schedule.next(replace(leaving, note_stands=False, may_begin=False), 5.0) == Publish()


def test_that_all_work_rests_where_owners_have_died_is_noted_until_some_goes_on() -> None:
    schedule = resting(since=10.0)
    rests = replace(NOTED, rests=True)
    assert schedule.next(rests, 11.0) == Wait(11.0 + SETTINGS.flush_interval_s)
    assert schedule.next(rests, 11.0 + SETTINGS.flush_interval_s) == NoteEnd()
    assert schedule.next(replace(rests, may_begin=False, note_stands=False), 12.0) == Publish()
    assert schedule.next(replace(rests, rests=False, running=1, may_begin=False, note_stands=False), 13.0) == (
        NoteBeginning()
    )


def test_work_that_no_note_let_begin_yet_is_noted_first_by_a_process_that_is_told_to_end() -> None:
    assert busy().next(Situation(running=1, finished=0, leaving=True), 5.0) == NoteBeginning()


def test_a_partition_that_is_given_up_publishes_at_once_and_ends_once_nothing_is_left() -> None:
    schedule = resting(since=10.0)
    schedule.result_came(took_s=8.0, now=11.0)
    closing = replace(ONE_OF_TWO, closing=True)
    assert schedule.next(closing, 11.0) == Publish(last=True)
    assert schedule.next(replace(closing, finished=0), 11.1) == Publish(last=True)


def test_a_partition_that_is_given_up_while_it_looks_for_results_looks_once_more() -> None:
    schedule = busy()
    assert schedule.next(NOTHING, 10.0) == Publish()
    schedule.found_nothing(10.0)
    assert schedule.next(replace(NOTHING, closing=True), 10.1) == Publish(last=True)


def test_after_a_failure_nothing_rests() -> None:
    schedule = resting(since=10.0)
    schedule.opened()
    assert schedule.next(NOTHING, 10.5) == Publish()
