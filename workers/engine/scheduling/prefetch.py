"""Guidance of those who wait, read into memory ahead of their turn, while the rows that run go on."""

from __future__ import annotations

from collections.abc import Collection, Container, Hashable, Sequence
from concurrent.futures import Future

from guideway.workers.engine.guidance.resident import ResidentGuidance, RowGuidance, Trained
from guideway.workers.messages.to_engine import Artefact


class GuidancePrefetch:
    """Owner of who waits for which guidance. It stays in memory from when it is read until whoever waits is served."""

    def __init__(self, guidance: ResidentGuidance) -> None:
        self._guidance = guidance
        self._waiting: dict[Hashable, tuple[Sequence[Artefact], list[Future[Trained]]]] = {}

    def has(self, who: Hashable, artefacts: Sequence[Artefact]) -> bool:
        """Whether all of `artefacts` are in memory, or cannot be had, as `load` tells; else they are read now."""
        if who not in self._waiting:
            self._waiting[who] = artefacts, [self._guidance.fetch(artefact) for artefact in artefacts]
        _, futures = self._waiting[who]
        return all(future.done() for future in futures)

    @property
    def missing(self) -> set[Future[Trained]]:
        """What is waited for."""
        return {future for _, futures in self._waiting.values() for future in futures if not future.done()}

    def load(self, who: Hashable, *, in_use: Collection[str]) -> RowGuidance:
        """Serve one for whom `has` said yes; the digests `in_use` stay in memory. Raises as `ResidentGuidance.load`."""
        artefacts, futures = self._waiting.pop(who)
        return RowGuidance.of(
            [
                self._guidance.load(artefact, in_use=in_use, fetched=future)
                for artefact, future in zip(artefacts, futures, strict=True)
            ]
        )

    def drop(self, who: Hashable) -> None:
        """It waits no more, if it did."""
        self._waiting.pop(who, None)

    def keep_only(self, who: Container[Hashable]) -> None:
        """The turn of all others is not near any more; what is read of theirs stays as far as there is room."""
        for each in [each for each in self._waiting if each not in who]:
            del self._waiting[each]

    @property
    def digests(self) -> set[str]:
        """What they wait for."""
        return {artefact.digest for artefacts, _ in self._waiting.values() for artefact in artefacts}
