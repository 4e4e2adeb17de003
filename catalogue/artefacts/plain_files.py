"""Reads a folder that others filled: only plain files with known names and bounded size."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path


class NotPlain(Exception):
    """A file that is no plain file or too large; the text says which."""


def read_plain_files(folder: Path, limits: Mapping[str, int], *, total: int) -> dict[str, bytearray]:
    """The files of the folder whose names are in `limits` (name → most bytes), together at most `total` bytes.

    Other files of the folder are ignored, whatever their number and names. Each file is opened once, and links are not
    followed, so that the bytes that were checked are those that are read.

    Raises: NotPlain for a symbolic link, a folder, a pipe, a device or a socket, and for a file that is too large;
    OSError if the folder or a file cannot be read.
    """
    found: dict[str, bytearray] = {}
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in sorted(limits):
            left = total - sum(map(len, found.values()))
            content = _read(root, name, limits[name], left)
            if content is not None:
                found[name] = content
    finally:
        os.close(root)
    return found


def missing_files(found: Collection[str], needed: Collection[str]) -> str:
    """The needed names that were not found, separated by commas, for a message."""
    return ", ".join(sorted({*needed} - {*found}))


def _read(root: int, name: str, limit: int, left: int) -> bytearray | None:
    # Not blocking: opening a pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=root)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EMLINK}:
            raise _not_plain(name) from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _not_plain(name)
        if found.st_size > min(limit, left):
            raise NotPlain(
                f"{name} has {found.st_size} bytes, and at most {min(limit, left)} are taken: make it smaller"
            )
        content = bytearray(found.st_size)
        at = 0
        with memoryview(content) as view:
            while at < len(view) and (count := os.readv(descriptor, [view[at:]])):
                at += count
        del content[at:]
    finally:
        os.close(descriptor)
    return content


def _not_plain(name: str) -> NotPlain:
    return NotPlain(
        f"{name} is no plain file: put the file itself there, not a link to one, a folder, a pipe or a device"
    )
