"""Charts as inline SVG, without scripts, fonts or downloads. The page gives colours to the classes `s0`, `s1`, ..."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from guideway.training.evaluation.intervals import Estimate
from guideway.training.evaluation.metrics import Reliability

_WIDTH: Final = 640
_HEIGHT: Final = 260
_LEFT: Final = 48
_BOTTOM: Final = 34
_TOP: Final = 12
_RIGHT: Final = 12
_POINTS: Final = 300
"""The most points of one line; more would not be visible."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart. A `dashed` line belongs to the solid one of the same colour."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """One line of a chart of intervals."""

    name: str
    estimate: Estimate
    colour: int


@dataclass(frozen=True)
class _Scale:
    """Maps values to places on the page."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return round(self.begin + (value - self.low) / span * (self.end - self.begin), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the scale."""
        span = (self.high - self.low) or 1.0
        rough = span / count
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(curves: Sequence[Curve], *, x_label: str, y_label: str) -> Markup:
    """A line chart; empty without points."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return Markup("")
    x = _Scale(0, max(p[0] for p in points), _LEFT, _WIDTH - _RIGHT)
    y = _Scale(min(0.0, *(p[1] for p in points)), max(p[1] for p in points), _HEIGHT - _BOTTOM, _TOP)
    body = [*_grid(x, y), *_axis_names(x_label, y_label)]
    for curve in curves:
        path = " ".join(f"{x(at)},{y(value)}" for at, value in _thinned(curve.points))
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        title = f"<title>{escape(curve.name)}</title>"
        body.append(f'<polyline class="line s{curve.colour}" points="{path}"{dash}>{title}</polyline>')
    return _svg(_HEIGHT, body, f"{y_label} by {x_label}")


def intervals(bars: Sequence[Bar], *, zero: float | None = None) -> Markup:
    """Estimates below each other, each with its interval. zero: a line is drawn at this value."""
    if not bars:
        return Markup("")
    left = _LEFT + 8 * max(len(bar.name) for bar in bars)
    height = _TOP + 26 * len(bars) + _BOTTOM
    values = [bar.estimate.low for bar in bars] + [bar.estimate.high for bar in bars]
    values += [] if zero is None else [zero]
    room = (max(values) - min(values)) * 0.04 or 0.02
    x = _Scale(min(values) - room, max(values) + room, left, _WIDTH - _RIGHT - 46)
    body = []
    for tick in x.ticks():
        body.append(f'<line class="grid" x1="{x(tick)}" y1="{_TOP}" x2="{x(tick)}" y2="{height - _BOTTOM}"/>')
        body.append(
            f'<text class="tick" x="{x(tick)}" y="{height - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        )
    if zero is not None:
        body.append(f'<line class="zero" x1="{x(zero)}" y1="{_TOP}" x2="{x(zero)}" y2="{height - _BOTTOM}"/>')
    for place, bar in enumerate(bars):
        y, one = _TOP + 26 * place + 13, bar.estimate
        body += [
            f'<text class="name" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(bar.name)}</text>',
            f'<line class="line s{bar.colour}" x1="{x(one.low)}" y1="{y}" x2="{x(one.high)}" y2="{y}"/>',
            f'<circle class="dot s{bar.colour}" cx="{x(one.value)}" cy="{y}" r="4.5"><title>{one}</title></circle>',
            f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{y + 4}" text-anchor="end">{one.value:.3f}</text>',
        ]
    return _svg(height, body, "estimates with their intervals")


def reliability(calibration: Reliability) -> Markup:
    """Accuracy by confidence. Dots on the diagonal are calibrated; their area grows with their rows."""
    side, most = 240, max((one.rows for one in calibration.bins), default=0)
    x = _Scale(0, 1, _LEFT, _LEFT + side)
    y = _Scale(0, 1, _TOP + side, _TOP)
    body = [*_grid(x, y, (0, 0.5, 1)), f'<line class="zero" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>']
    body += [
        f'<circle class="dot s1" cx="{x(one.confidence)}" cy="{y(one.accuracy)}" '
        f'r="{3 + 9 * math.sqrt(one.rows / most):.1f}" fill-opacity="0.65"><title>{one.rows} rows</title></circle>'
        for one in calibration.bins
        if one.rows
    ]
    height = _TOP + side + _BOTTOM
    body.append(f'<text class="tick" x="{_LEFT + side / 2}" y="{height - 4}" text-anchor="middle">confidence</text>')
    body.append(_upright("accuracy", _TOP + side / 2))
    return _svg(height, body, "accuracy by confidence", width=_LEFT + side + _RIGHT + 12)


def _grid(x: _Scale, y: _Scale, at: Sequence[float] | None = None) -> Iterator[str]:
    for tick in at or y.ticks():
        yield f'<line class="grid" x1="{x.begin}" y1="{y(tick)}" x2="{x.end}" y2="{y(tick)}"/>'
        yield f'<text class="tick" x="{x.begin - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
    for tick in at or x.ticks():
        yield f'<text class="tick" x="{x(tick)}" y="{y.begin + 16}" text-anchor="middle">{tick:g}</text>'


def _axis_names(x_label: str, y_label: str) -> Iterator[str]:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    yield _upright(y_label, (_TOP + _HEIGHT - _BOTTOM) / 2)


def _upright(text: str, y: float) -> str:
    return f'<text class="tick" transform="translate(12 {y}) rotate(-90)" text-anchor="middle">{escape(text)}</text>'


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Means of neighbouring points, at most `_POINTS`."""
    size = max(1, math.ceil(len(points) / _POINTS))
    for begin in range(0, len(points), size):
        some = points[begin : begin + size]
        yield sum(p[0] for p in some) / len(some), sum(p[1] for p in some) / len(some)


def _svg(height: float, body: Sequence[str], label: str, *, width: int = _WIDTH) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label)}">'
    return Markup("\n".join([head, *body, "</svg>"]))
