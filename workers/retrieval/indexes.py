"""The open indexes. A thread opens them beside the lookups. The least recently used are closed above a byte budget."""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog
from cachetools import TTLCache

from guideway.catalogue.artefacts.contents import Altered, read_fetched
from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.messages.to_retrieval import SetArtefact
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.index import LOCAL_LIMIT, Index, Qdrant

log = structlog.get_logger()

_FAILURE_KEPT_S: Final = 5.0
"""Seconds for which a failure to open is remembered, so that all lookups that wait are refused at once."""


class Indexes:
    """Used by the one loop of the process; only the opening of an index runs in another thread."""

    def __init__(
        self,
        qdrant: Qdrant,
        max_bytes: int,
        on_opened: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_bytes: of all indexes. on_opened: another thread calls it after each opening, also after a failure."""
        self._qdrant = qdrant
        self._max_bytes = max_bytes
        self._on_opened = on_opened
        self._opener = ThreadPoolExecutor(1, "open an index")
        self._opening: dict[str, Future[Index]] = {}
        self._open: OrderedDict[str, Index] = OrderedDict()
        self._failed: TTLCache[str, Refusal] = TTLCache(1000, _FAILURE_KEPT_S, timer=clock)

    def get(self, artefact: SetArtefact) -> Index | None:
        """The index; None while it is being opened. The first call starts the opening.

        Raises: Refusal `retrieval_failed` or `guidance_damaged` if it could not be opened, also to all who ask within
        the next seconds (a later call tries again); Altered if its folder does not match its digest.
        """
        key = artefact.key
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        future = self._opening.get(key)
        if future is not None and future.done():
            del self._opening[key]
            try:
                self._open[key] = future.result()
            except Altered as altered:
                # Not remembered: the worker fetches the artefact again, and asks at once.
                raise Altered(artefact.digest, f"retrieval set {artefact.name}: {altered.message}") from None
            except Refusal as refusal:
                self._failed[key] = refusal
            except Exception as error:
                log.error(
                    "an index cannot be opened",
                    set=artefact.name,
                    error=type(error).__name__,
                    at=traceback.format_tb(error.__traceback__),
                )
                self._failed[key] = Refusal(
                    FailureCode.RETRIEVAL_FAILED, f"it cannot be opened ({type(error).__name__}): see the worker's log"
                )
            else:
                return self._open[key]
        if (why := self._failed.get(key)) is not None:
            raise Refusal(why.code, f"retrieval set {artefact.name}: {why.message}")
        if future is None:
            self._opening[key] = self._opener.submit(self._opened, artefact)
            self._opening[key].add_done_callback(lambda _: self._on_opened())
        return None

    def drop(self, key: str) -> None:
        """Close an index if it is open. The next `get` opens it again, and fills it if passages are missing."""
        if (index := self._open.pop(key, None)) is not None:
            index.close()

    def trim(self, in_use: Collection[str]) -> None:
        """Close the least recently used indexes until the rest fits. in_use: keys of indexes that stay open."""
        for key in [key for key in self._open if key not in in_use]:
            if sum(index.bytes for index in self._open.values()) <= self._max_bytes:
                return
            self._open.pop(key).close()

    def _opened(self, artefact: SetArtefact) -> Index:
        if self._qdrant.url is None and artefact.passages > LOCAL_LIMIT:
            log.warning("a set this large wants a Qdrant server", set=artefact.name, passages=artefact.passages)
        index = self._qdrant.open(artefact.key, artefact.passages, lambda: _read(artefact))
        log.info("index open", set=artefact.name, passages=artefact.passages)
        return index


def _read(artefact: SetArtefact) -> set_folder.SetFolder:
    folder = Path(artefact.folder)
    return set_folder.parsed(read_fetched(folder, artefact.digest)) if artefact.by_content else set_folder.read(folder)
