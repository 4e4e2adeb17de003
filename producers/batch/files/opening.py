"""Opens a batch file, wherever it lies, as bytes in which one can seek."""

from __future__ import annotations

import gzip
import stat
import tempfile
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

import fsspec

from guideway.schemas.failures import FailureCode, Refusal

STANDARD_INPUT: Final = "-"
_PIECE_BYTES: Final = 2**20
_KEPT_IN_MEMORY: Final = 2**20


def opened(address: str) -> BinaryIO:
    """The file, to be closed. address: a path, or any fsspec address such as `s3://bucket/rows.jsonl`.

    Raises Refusal: invalid_setting where there is no such file, invalid_data where it is empty.
    """
    try:
        if "://" in address:
            found = cast("BinaryIO", fsspec.open(address, "rb").open())
        else:
            _require_file(Path(address))
            found = Path(address).open("rb")  # noqa: SIM115  whoever asked closes it
    except FileNotFoundError:
        raise _wrong(f"there is no file {address}: correct the path") from None
    except (OSError, ValueError, ImportError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _wrong(f"{address} cannot be opened ({why[:200]}): correct its path, or its rights") from None
    if found.seekable() and not found.seek(0, 2):
        found.close()
        raise Refusal(FailureCode.INVALID_DATA, f"{address} is empty: it has no rows")
    if found.seekable():
        found.seek(0)
        return found
    with found:
        return seekable(found, address)


def seekable(stream: IO[bytes], name: str) -> BinaryIO:
    """A temporary file with all that the stream holds: of standard input, or of a pipe. It is gone when it is closed.

    Raises Refusal(invalid_data) where it is empty.
    """
    kept = tempfile.SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY)  # noqa: SIM115  whoever asked closes it
    while piece := stream.read(_PIECE_BYTES):
        kept.write(piece)
    if not kept.tell():
        kept.close()
        raise Refusal(FailureCode.INVALID_DATA, f"{_told(name)} is empty: it has no rows")
    kept.seek(0)
    return cast("BinaryIO", kept)


def is_of_the_store(error: BaseException) -> bool:
    """Whether it says that a file cannot be read now, rather than what is wrong with the file.

    Of a damaged file, those that unpack it tell no number, and no kind of their own but `BadGzipFile`.
    """
    is_told = isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile)
    return is_told and (error.errno is not None or type(error) is not OSError)  # type: ignore[attr-defined]


class Borrowed:
    """A file for readers that close what they are given."""

    mode: Final = "rb"
    closed: Final = False

    def __init__(self, source: BinaryIO) -> None:
        self.read, self.seek, self.tell = source.read, source.seek, source.tell

    def close(self) -> None:
        """It stays open."""

    def readable(self) -> bool:
        """It is."""
        return True

    seekable = readable


def _require_file(path: Path) -> None:
    """Raises: OSError; Refusal(invalid_setting)."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise _wrong(f"{path} is a folder: name a file in it")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise _wrong(f"{path} is neither a file nor a pipe: name a file")


def _told(name: str) -> str:
    return "standard input" if name == STANDARD_INPUT else name


def _wrong(message: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, message)
