"""When a silent process is ended, in literal times: never an idle one, always one that hangs."""

from __future__ import annotations

from guideway.workers.processes.silence import Silence


def silence() -> Silence:
    rule = Silence(busy_s=300.0, start_s=600.0)
    rule.heard(0.0)
    return rule


def look(rule: Silence, start: float, stop: float, *, owing: bool) -> float:
    """Looks at it from `start` to `stop`, as often as it asks for; returns when it is too long, else `stop`."""
    now = start
    while now < stop:
        now = min(stop, now + rule.look_s)
        rule.count(now, owing=owing)
        if rule.is_too_long(starting=False):
            return now
    return stop


def test_half_an_hour_without_work_is_no_silence_and_the_next_request_has_all_its_time() -> None:
    rule = silence()
    assert look(rule, 0.0, 1800.0, owing=False) == 1800.0
    rule.count(1803.0, owing=False)  # a request comes, between two looks
    assert look(rule, 1803.0, 2102.0, owing=True) == 2102.0
    assert not rule.is_too_long(starting=False)
    assert look(rule, 2102.0, 3000.0, owing=True) < 2110.0


def test_a_word_begins_it_anew() -> None:
    rule = silence()
    look(rule, 0.0, 299.0, owing=True)
    rule.heard(299.0)
    assert look(rule, 299.0, 598.0, owing=True) == 598.0


def test_one_that_hangs_is_found_though_each_request_gives_it_up_soon() -> None:
    """A minute's wait each, and a minute without any between them: five of them are five minutes' silence."""
    rule, now = silence(), 0.0
    for _ in range(5):
        assert look(rule, now, now + 60.0, owing=True) == now + 60.0
        look(rule, now + 60.0, now + 120.0, owing=False)
        now += 120.0
    assert look(rule, now, now + 60.0, owing=True) == now + rule.look_s


def test_while_this_process_stands_still_nothing_can_be_heard() -> None:
    """Suspended for an hour, or half a minute of garbage collection now and then."""
    rule = silence()
    rule.count(3600.0, owing=True)
    assert rule.silent_s <= 10.0
    for minute in range(20):
        rule.count(3700.0 + 60 * minute, owing=True)
        rule.heard(3700.0 + 60 * minute)
    assert not rule.is_too_long(starting=False)


def test_a_start_may_take_longer() -> None:
    rule = silence()
    for now in range(5, 600, 5):
        rule.count(float(now), owing=True)
    assert rule.is_too_long(starting=False)
    assert not rule.is_too_long(starting=True)
    rule.count(600.0, owing=True)
    rule.count(605.0, owing=True)
    assert rule.is_too_long(starting=True)
