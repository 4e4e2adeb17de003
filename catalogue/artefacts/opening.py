"""Opens the store, which is any place that fsspec knows, and puts files there."""

from __future__ import annotations

import contextlib
import uuid
from datetime import datetime
from typing import Any

import fsspec

from guideway.schemas.failures import FailureCode, Refusal


def opened(store: str) -> tuple[Any, str]:
    """(file system, path of the store in it). store: a folder, or any fsspec address.

    Raises Refusal(invalid_setting) if it cannot be opened.
    """
    try:
        fs, base = fsspec.core.url_to_fs(store)
    except (ValueError, ImportError) as error:
        # ImportError: the package for this kind of store is not installed; the message names it.
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"GUIDEWAY_STORE is {store!r}, which cannot be opened ({error}): name a folder, or another address",
        ) from None
    return fs, str(base)


def written_s(listed: dict[str, Any]) -> float | None:
    """When a file was written, Unix time in seconds, as `ls` with its details has it; None: the store does not say."""
    written = listed.get("mtime") or listed.get("LastModified") or listed.get("updated") or listed.get("created")
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if isinstance(written, int | float) else None


def put_whole(fs: Any, path: str, data: bytes) -> None:
    """Write a file that has its name once it is whole. Raises OSError and what else the store has."""
    folder = path.rpartition("/")[0]
    fresh = f"{folder}/.{uuid.uuid4().hex}"
    fs.makedirs(folder, exist_ok=True)
    try:
        fs.pipe_file(fresh, data)
        fs.mv(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rm_file(fresh)
        raise
