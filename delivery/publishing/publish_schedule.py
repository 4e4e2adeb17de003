"""When a partition publishes, and when it notes that work begins or ends. Pure: every time is the caller's.

Each transaction costs the brokers several requests, so results share one. Two waits see to that:

1. After a *rest* (nothing was found to publish) the first thing to do waits `flush_interval_s` for others.
2. Each result may wait for others for a share of the time that it took (`gathering_s`). The result that may wait least
   decides for all. Nothing waits where no other result can come, where a transaction is full, or where the partition
   is given up.

What one transaction had no room for follows in the next one at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from guideway.delivery.settings import DeliverySettings


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a partition has to do, as it is now."""

    running: int
    """Records that are worked on."""
    finished: int
    """Results that are not published."""
    may_begin: bool = False
    """It is noted that work is under way, so that records need not wait to begin."""
    has_noted: bool = False
    """That was noted at least once since the partition is owned."""
    note_stands: bool = False
    """The last commit says that work is under way."""
    rests: bool = False
    """All work that is under way waits for something, and an owner has died: another death is none of its records'."""
    leaving: bool = False
    """The process is told to end."""
    closing: bool = False
    """The partition is given up: publish what is there, and end."""


@dataclass(frozen=True)
class NoteBeginning:
    """Commit, without results, that work is under way."""


@dataclass(frozen=True)
class NoteEnd:
    """Commit, without results, that no work is under way any more."""


@dataclass(frozen=True)
class Publish:
    """Publish the results that can be sent; tell `found_nothing` if there were none."""

    tidy: bool = False
    """Without any results, commit all the same if the low watermark has moved."""
    last: bool = False
    """Without any results, the partition is done."""


@dataclass(frozen=True)
class Wait:
    """Do nothing before `until`, unless something happens."""

    until: float


Step = NoteBeginning | NoteEnd | Publish | Wait


class PublishSchedule:
    """Owned by one partition. Times are seconds of one clock, that of the event loop."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._publish_by: float | None = None
        """When the first of the results that came since the last `Publish` is to be published; None: none came."""
        self._rests_since: float | None = None
        """Since when nothing is to be done; None: the partition does not rest."""
        self._woken_at: float | None = None
        """When, in this rest, there was something to do again."""

    def opened(self) -> None:
        """The partition was opened, anew or for the first time."""
        self._rests_since = self._woken_at = None

    def result_came(self, took_s: float, now: float) -> None:
        """A record that was worked on for `took_s` has its result."""
        by = now + self._gathering_s(took_s)
        self._publish_by = by if self._publish_by is None else min(by, self._publish_by)

    def found_nothing(self, now: float) -> None:
        """There was nothing to commit in the `Publish` of before."""
        self._rests_since = now

    def next(self, work: Situation, now: float) -> Step:
        """What the partition does now. Ask again when that is done, and whenever the situation has changed."""
        tidy = False
        if self._rests_since is not None:
            tidy = not work.closing and not self._wakes(work)
            if not work.closing and now < (until := self._rest_ends(work, now)):
                return Wait(until)
            self._rests_since = self._woken_at = None
        if _wants_note(work):
            return NoteBeginning()
        if _wants_end(work):
            return NoteEnd()
        if self._publish_by is not None and now < self._publish_by and not self._hurries(work):
            return Wait(self._publish_by)
        self._publish_by = None
        return Publish(tidy=tidy, last=work.closing)

    def _wakes(self, work: Situation) -> bool:
        """Whether there is anything to do that ends a rest; results that are held back do not."""
        return self._publish_by is not None or _wants_note(work) or _wants_end(work)

    def _rest_ends(self, work: Situation, now: float) -> float:
        assert self._rests_since is not None
        if not self._wakes(work):
            return self._rests_since + self._settings.idle_s
        if self._woken_at is None:
            self._woken_at = now
        return self._woken_at + self._settings.flush_interval_s

    def _hurries(self, work: Situation) -> bool:
        """Whether the results that are here are not to wait for others, or have no others to wait for."""
        return work.closing or not work.running or not work.may_begin or work.finished >= self._settings.flush_results

    def _gathering_s(self, took_s: float) -> float:
        """How long a result that took so long may wait for others."""
        bounds = self._settings
        return max(bounds.flush_interval_s, min(bounds.flush_share * took_s, bounds.max_flush_interval_s))


def _wants_end(work: Situation) -> bool:
    """Whether it is to be noted that no work is under way."""
    return work.note_stands and (work.leaving or work.rests)


def _wants_note(work: Situation) -> bool:
    """Whether work waits until it is noted that it begins. A process that ends notes nothing but its first work."""
    return work.running > 0 and not work.may_begin and not (work.leaving and work.has_noted)
