"""Bounds of numbers as the grammar library keeps them. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeGuard

BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MOST: Final = sys.float_info.max
_TINY: Final = 1e-15
_BRIEF_CHARS: Final = 60
_WHOLE: Final = 2**50
"""From here on a step inwards would leave out a whole number."""
_LEAST: Final = -(2**63)
"""The least integer of 64 bits. Many tools write it, and the library cannot turn its sign."""


def brief(value: object) -> str:
    """What a user wrote, for a message: of a long one only how it begins."""
    text = str(value)
    return text if len(text) <= _BRIEF_CHARS else f"{text[:_BRIEF_CHARS]}…"


def sound_bounds(part: Mapping[str, Any]) -> dict[str, float]:
    """Those bounds of a subschema that the library would not keep, moved inwards by less than readers tell apart.

    It takes bounds as floats, which round long integers. And it writes a whole number that is an exclusive bound, the
    one nearer to 0, if the other bound is less than one away: 0 for `exclusiveMinimum: 0, maximum: 0.5`.
    """
    moved = {}
    for keyword in BOUNDS:
        bound = part.get(keyword)
        if _is_number(bound):
            new = _inwards(bound, up=keyword in {"minimum", "exclusiveMinimum"}, exclusive=keyword.startswith("ex"))
            if new != bound:
                moved[keyword] = new
    return moved


def _inwards(bound: float, *, up: bool, exclusive: bool) -> float:
    near, end = float(bound), math.inf if up else -math.inf
    if (near < bound if up else near > bound) or (up and bound == _LEAST):
        return int(math.nextafter(near, end))
    if not exclusive or not near.is_integer() or (near < 0 if up else near > 0) or abs(near) >= _WHOLE:
        return bound
    return near + math.copysign(4 * math.ulp(near) if near else _TINY, end)


def left_out(part: Mapping[str, Any]) -> list[float]:
    """Numbers between the bounds of a subschema that the library does not write: bounds that are cut after a digit.

    It takes 0.9 for the beginning of 0.95, and of `maximum: 0.95` then needs one more digit.
    """
    if not _is_of_numbers(part):
        return []
    least, most = _bound(part, "minimum", "exclusiveMinimum", max), _bound(part, "maximum", "exclusiveMaximum", min)
    found = set()
    for bound in (least, most):
        whole, _, fraction = f"{bound:f}".partition(".") if bound.is_finite() else ("", "", "")
        found |= {Decimal(f"{whole}.{fraction[:digits]}") for digits in range(1, len(fraction))}
    step = _step(part)
    return sorted(
        float(one) for one in found if least < one < most and (step is None or not Fraction(one) % Fraction(step))
    )


def coarser_steps(part: Mapping[str, Any]) -> list[float]:
    """Steps of the numbers with fewer decimals than `multipleOf` has, as far as the library would not write these.

    Of `multipleOf: 0.05` it takes 19.30 and not 19.3, as 193 is no multiple of 5: a model that meant 19.3 would write
    one more digit, which could be a 5.
    """
    step = _step(part)
    if step is None or not _is_of_numbers(part):
        return []
    _, _, fraction = f"{step:f}".partition(".")
    decimals = len(fraction.rstrip("0"))
    count = int(step.scaleb(decimals))
    found = []
    for fewer in range(1, decimals):
        common = math.gcd(count, 10 ** (decimals - fewer))
        if common > 1:
            found.append(float(Decimal(count // common).scaleb(-fewer)))
    return found


def _is_of_numbers(part: Mapping[str, Any]) -> bool:
    """Whether it may be a number with decimals. What is no type at all is refused elsewhere."""
    types = part.get("type") or "number"
    return "number" in ([types] if isinstance(types, str) else types if isinstance(types, list) else [])


def _step(part: Mapping[str, Any]) -> Decimal | None:
    by = part.get("multipleOf")
    return Decimal(repr(by)) if _is_number(by) and by > 0 else None


def _bound(part: Mapping[str, Any], *keywords: Any) -> Decimal:
    *names, inner = keywords
    found = [part[name] for name in names if _is_number(part.get(name))]
    return Decimal(repr(inner(found))) if found else Decimal("Infinity" if inner is min else "-Infinity")


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one that a float can be, which is finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST
