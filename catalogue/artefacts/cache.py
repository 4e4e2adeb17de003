"""Artefacts on this machine's disk: a byte budget, the least recently used goes first, any number of processes.

`FOLDER/HEX` is a complete artefact, because it was renamed there. `FOLDER/.fetch-…` is being fetched, and
`FOLDER/.gone-…` is being removed. A process that uses one of these holds a lock on one byte of `FOLDER.lock`, whose
place is a hash of the name. When a process is killed, the system frees its locks, and others see that nobody uses what
it left half done. One open file is enough for any number of artefacts.
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
    """Where artefacts are kept, and how many bytes of them. Artefacts in use stay, even if they alone exceed that."""

    folder: Path
    max_bytes: int = DEFAULT_BYTES

    def hold(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The folder of the artefact of that name. It stays until `let_go` was called as often as `hold`.

        If it is not there yet, `fetch` puts its files into an empty folder. Raises what `fetch` raises, and OSError.
        """
        target = self.folder / name
        locks = _locks(self.folder)
        locks.hold(name)
        try:
            if target.is_dir():
                # The folder's time says when it was last used.
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
        """End one use of the artefact."""
        _locks(self.folder).let_go(name)

    def remove(self, name: str) -> None:
        """Remove the artefact, even if it is in use, because its bytes have changed and it must be fetched again."""
        aside = self._set_aside(self.folder / name)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)

    def trim(self) -> None:
        """Remove what killed processes left half done, then the least recently used, down to the budget."""
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
        """Rename it in one step, so that nobody sees half of it; None if that fails or it is gone already."""
        aside = self.folder / f"{_GONE}{uuid.uuid4().hex}"
        try:
            path.rename(aside)
        except OSError:
            return None
        return aside


class _Locks:
    """This process's locks in one cache. It owns the lock file and keeps it open: closing it would free all locks."""

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
        """Whether nobody holds it. Inside the context nobody else can begin to hold it."""
        with self._mutex:
            # File locks do not exclude each other within one process, so our own are counted.
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
            # Another process holds it; or the disk has no locks, and then nothing is ever removed.
            return False
        return True


@cache
def _locks_of(folder: str) -> _Locks:
    return _Locks(Path(folder))


def _locks(folder: Path) -> _Locks:
    """This process's locks for this folder."""
    return _locks_of(os.path.realpath(folder))


def bytes_of(folder: Path) -> int:
    """The bytes of its files. Raises OSError."""
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))
