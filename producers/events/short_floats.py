"""Numbers of 32 and 16 bits as people wrote them: 0.1, not 0.10000000149011612. Pure."""

from __future__ import annotations

import struct
from typing import Final, Literal

_DIGITS: Final[dict[str, range]] = {"f": range(6, 10), "e": range(3, 6)}
"""Of so many digits the last always suffice."""


def short_float(value: float, form: Literal["f", "e"] = "f") -> float:
    """The shortest decimal number that is the same in 32 bits, or for the form `e` in 16. value: such a one."""
    packed = struct.pack(form, value)
    for digits in _DIGITS[form]:
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack(form, short) == packed:
                return short
        except OverflowError:
            continue
    return value
