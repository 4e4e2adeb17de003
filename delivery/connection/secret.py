"""A secret that can be used, and not shown by accident."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final, NoReturn

from guideway.schemas.failures import FailureCode, Refusal

_MAX_BYTES: Final = 65_536


class Revealed(str):
    """A secret for whoever takes no `Secret`, such as aiokafka: a text that is not shown and knows where it is from.

    Joined or encoded it is what it is.
    """

    __slots__ = ("secret",)

    secret: Secret

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)


class Secret:
    """A text that repr, str, format, msgspec, copies and pickles do not show. `reveal` gives it.

    One that stands in a file is read whenever it is needed, so that a changed file counts without a restart.
    """

    __slots__ = ("_file", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._file: Path | None = None

    @staticmethod
    def in_file(file: Path) -> Secret:
        """The text of the file, without the line's end. Raises Refusal(invalid_setting) if it cannot be read."""
        secret = Secret("")
        secret._file = file
        secret.reveal()
        return secret

    @property
    def file(self) -> Path | None:
        """Where it stands, if it stands in a file."""
        return self._file

    def reveal(self) -> str:
        """The text. Raises Refusal(invalid_setting) if its file can no longer be read."""
        if self._file is None:
            return self._text
        try:
            with self._file.open("rb") as opened:
                found = opened.read(_MAX_BYTES + 1)
            text = found.decode("utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise _refused(self._file, f"cannot be read: {error.strerror or type(error).__name__}") from None
        except UnicodeDecodeError:
            # The decoder's own error would quote the secret.
            raise _refused(self._file, "is not UTF-8: write it again") from None
        if not text or len(found) > _MAX_BYTES:
            raise _refused(self._file, "holds no secret of a sensible length: it is to hold one line")
        return text

    def revealed(self) -> Revealed:
        """For clients that keep the text itself. Raises Refusal as `reveal`."""
        found = Revealed(self.reveal())
        found.secret = self
        return found

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self._file == other._file and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((self._text, self._file))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled: child processes read it where this one did")


def _refused(file: Path, why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, f"the file with a secret, {file}, {why}")
