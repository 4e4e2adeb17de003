"""Guidance is read into memory ahead of the turn of whoever needs it, while the running rows go on."""

from __future__ import annotations

from collections.abc import Collection, Container, Hashable, Sequence
from concurrent.futures import Future

from guideway.workers.engine.guidance.resident import ResidentGuidance, RowGuidance, Trained
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.messages.to_engine import Artefact


class GuidancePrefetch:
    """Owner of who waits for which guidance: requests by their ids, and rows. It stays in memory until they are served.

    `begin` starts to read, `is_ready` and `ready_rows` only look, `load` serves.
    """

    def __init__(self, guidance: ResidentGuidance) -> None:
        self._guidance = guidance
        self._waiting: dict[Hashable, tuple[Sequence[Artefact], list[Future[Trained]]]] = {}
        self.ready_rows: Container[Row] = _ReadyRows(self, guidance)
        """The rows that need not wait for their guidance, at any time."""

    def begin(self, who: Hashable, artefacts: Sequence[Artefact]) -> None:
        """Let `who` wait for `artefacts`: those that are not in memory are read. A second call changes nothing."""
        if who not in self._waiting:
            self._waiting[who] = artefacts, [self._guidance.fetch(artefact) for artefact in artefacts]

    def has_begun(self, who: Hashable) -> bool:
        """Whether `who` waits, or could be served now."""
        return who in self._waiting

    def is_ready(self, who: Hashable) -> bool:
        """Whether all that was begun for `who` is read, or could not be read, as `load` tells."""
        _, futures = self._waiting[who]
        return all(future.done() for future in futures)

    @property
    def missing(self) -> set[Future[Trained]]:
        """The artefacts that are being read for somebody."""
        return {future for _, futures in self._waiting.values() for future in futures if not future.done()}

    def load(self, who: Hashable, *, in_use: Collection[str]) -> RowGuidance:
        """Serve `who`, who has begun and waits no more; the digests `in_use` stay in memory.

        Blocks until all is read, unless `who` is ready. Raises as `ResidentGuidance.load` and `RowGuidance.of`.
        """
        artefacts, futures = self._waiting.pop(who)
        return RowGuidance.of(
            [
                self._guidance.load(artefact, in_use=in_use, fetched=future)
                for artefact, future in zip(artefacts, futures, strict=True)
            ]
        )

    def drop(self, who: Hashable) -> None:
        """`who` waits no more; one that does not wait is ignored."""
        self._waiting.pop(who, None)

    def keep_only(self, who: Container[Hashable]) -> None:
        """Drop all others: their turn is not near any more. What was read for them stays as far as there is room."""
        for each in [each for each in self._waiting if each not in who]:
            del self._waiting[each]

    @property
    def digests(self) -> set[str]:
        """The digests of all guidance that somebody waits for."""
        return {artefact.digest for artefacts, _ in self._waiting.values() for artefact in artefacts}


class _ReadyRows:
    """A view that starts nothing. A look costs more for more artefacts of the row, and not for more waiting rows."""

    def __init__(self, ahead: GuidancePrefetch, guidance: ResidentGuidance) -> None:
        self._ahead = ahead
        self._guidance = guidance

    def __contains__(self, row: object) -> bool:
        assert isinstance(row, Row)
        # Only the one for whom it was begun knows of guidance that could not be read.
        if self._ahead.has_begun(row):
            return self._ahead.is_ready(row)
        return all(self._guidance.is_at_hand(artefact) for artefact in row.admit.artefacts)
