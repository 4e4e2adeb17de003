"""The report of a replay: one page that needs no other file. What callers wrote is escaped; there is no script."""

from __future__ import annotations

import datetime
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

from guideway.training.evaluation import charts
from guideway.training.evaluation.intervals import Estimate
from guideway.training.evaluation.report import environment
from guideway.training.replays.answers import Given, Question
from guideway.training.replays.changes import Shift
from guideway.training.replays.comparison import Compared, Figure

_SHOWN_ROWS: Final = 60
_SHOWN_CHARS: Final = 600
_MOST_LABELS: Final = 30
"""There is no table of more labels: nobody could read it."""


def page_of(question: Question, compared: Compared, outcome: str = "") -> str:
    """The page. outcome: what was done because of it, in a sentence."""
    made = environment("guideway.training.replays")
    made.filters |= {"answer": _answer, "cut": _cut, "signed": signed, "told": told}
    template: jinja2.Template = made.get_template("replay.html.jinja")
    return template.render(
        question=question,
        compared=compared,
        outcome=outcome,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        score_chart=_score_chart(compared),
        difference_chart=_difference_chart(compared),
        columns=_columns(compared),
        cells={(one.before, one.after): one for one in compared.shifts},
        before_rows=_before_rows(compared.shifts),
        shown=compared.changed[:_SHOWN_ROWS],
    )


def _score_chart(compared: Compared) -> Markup:
    if (score := compared.score) is None:
        return Markup("")
    return charts.intervals([charts.Bar("now", score.now, 0), charts.Bar("new", score.new, 1)])


def _difference_chart(compared: Compared) -> Markup:
    shares = [(one.name, one.difference) for one in compared.figures if one.is_share]
    bars = [charts.Bar(name.replace("_", " "), one, 1) for name, one in shares if one is not None]
    return charts.intervals(bars, zero=0.0)


def _columns(compared: Compared) -> list[str | None]:
    """The labels of the table, and None for no value; empty where there are none, or too many."""
    return [*compared.labels, None] if 0 < len(compared.labels) <= _MOST_LABELS else []


def _before_rows(shifts: list[Shift]) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for one in shifts:
        found[one.before] = found.get(one.before, 0) + one.rows
    return found


def told(figure: Figure, side: str) -> str:
    """An estimate as its kind is read: shares with three digits, counts with one."""
    one: Estimate = getattr(figure, side)
    return str(one) if figure.is_share else f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"


def signed(figure: Figure) -> str:
    """A difference with its sign."""
    one = figure.difference
    if one is None:
        return "–"
    digits = 3 if figure.is_share else 1
    return f"{one.value:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"


def _answer(given: Given) -> str:
    """A result for a person, with how sure the endpoint is."""
    if given.failure:
        return f"no result: {given.failure}"
    sure = given.probabilities.get(given.text)
    return _cut(_plain(given.value)) + ("" if sure is None else f" ({sure:.2f})")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _cut(text: Any) -> str:
    text = _plain(text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …"
