"""Artefacts on this machine's disk: kept by least recent use under a byte budget, shared by any number of processes.

`FOLDER/HEX` is an artefact, complete, for it was renamed there; `FOLDER/.fetch-…` one that is being fetched, and
`FOLDER/.gone-…` one that is being removed. Whoever uses one of these holds a lock on one byte of `FOLDER.lock`, whose
place is made of the name: the system lets go of the locks of a process that is killed, so that what it left half done
is seen to be nobody's, and one file is open however many artefacts are held.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

DEFAULT_BYTES: Final = 10 * 2**30
_FETCHED: Final = ".fetch-"
_GONE: Final = ".gone-"


class ArtefactCache(msgspec.Struct, frozen=True):
    """Where artefacts are kept, and how many bytes of them. What is held stays, even where it alone is more."""

    folder: Path
    max_bytes: int = DEFAULT_BYTES

    def hold(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The artefact of that name as a folder, which stays there until it is let go as often as it was held.

        Where it is not there yet, `fetch` puts its files into an empty folder. Raises what `fetch` raises, and OSError.
        """
        target = self.folder / name
        locks = _locks(self.folder)
        locks.hold(name)
        try:
            if target.is_dir():
                # What is used is the last to go.
                with contextlib.suppress(OSError):
                    os.utime(target)
                return target
            self._fetch(target, fetch)
            self.trim()
        except BaseException:
            locks.let_go(name)
            raise
        return target

    def let_go(self, name: str) -> None:
        """One use of it less."""
        _locks(self.folder).let_go(name)

    def remove(self, name: str) -> None:
        """Take it away, whoever uses it: it is not what it was, and is to be fetched again."""
        aside = self._set_aside(self.folder / name)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)

    def trim(self) -> None:
        """Remove what processes that were killed left half done, and what was not used for longest, to the budget."""
        kept: list[tuple[float, int, Path]] = []
        for path in list(self.folder.iterdir()):
            if path.name.startswith((_FETCHED, _GONE)):
                with _locks(self.folder).alone(path.name) as nobodys:
                    aside = self._set_aside(path) if nobodys else None
                if aside is not None:
                    shutil.rmtree(aside, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # another process was quicker
                    kept.append((path.stat().st_mtime, bytes_of(path), path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.max_bytes:
                return
            with _locks(self.folder).alone(path.name) as nobodys:
                aside = self._set_aside(path) if nobodys else None
            if aside is not None:
                total -= size
                shutil.rmtree(aside, ignore_errors=True)

    def _fetch(self, target: Path, fetch: Callable[[Path], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{_FETCHED}{uuid.uuid4().hex}"
        locks = _locks(self.folder)
        locks.hold(fresh.name)
        try:
            fresh.mkdir(mode=0o700)
            fetch(fresh)
            try:
                fresh.rename(target)
            except OSError:
                # Another process was quicker, with the same bytes.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            locks.let_go(fresh.name)

    def _set_aside(self, path: Path) -> Path | None:
        """Out of the way at once, so that nobody sees half of it; None where that cannot be, or it is gone already."""
        aside = self.folder / f"{_GONE}{uuid.uuid4().hex}"
        try:
            path.rename(aside)
        except OSError:
            return None
        return aside


class _Locks:
    """What this process holds of one cache; owner of its lock file, which stays open: closed, it frees them all."""

    def __init__(self, folder: Path) -> None:
        self._file = folder.with_name(f"{folder.name}.lock")
        self._descriptor: int | None = None
        self._held: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def hold(self, name: str) -> None:
        with self._mutex:
            if not self._held[name]:
                self._lock(name, fcntl.LOCK_SH)
            self._held[name] += 1

    def let_go(self, name: str) -> None:
        with self._mutex:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
                self._lock(name, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """Whether nobody holds it, and while inside nobody can begin to."""
        with self._mutex:
            # Within one process locks do not hold each other off: our own are counted.
            nobodys = not self._held[name] and self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield nobodys
            finally:
                if nobodys:
                    self._lock(name, fcntl.LOCK_UN)

    def _lock(self, name: str, how: int) -> bool:
        if self._descriptor is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
        try:
            fcntl.lockf(self._descriptor, how, 1, place)
        except OSError:
            # Held by another process; or a disk that knows no locks, on which nothing is ever removed.
            return False
        return True


@cache
def _locks_of(folder: str) -> _Locks:
    return _Locks(Path(folder))


def _locks(folder: Path) -> _Locks:
    """The one of this process for this folder."""
    return _locks_of(os.path.realpath(folder))


def bytes_of(folder: Path) -> int:
    """Of its files. Raises OSError."""
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))
