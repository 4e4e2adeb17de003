"""Rows of an endpoint's archive as examples: which can be, why others cannot, and a run's rows once more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from guideway.catalogue.archive.examples import WITHOUT_VALUE, between, confidence_of, why_none
from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.output import Json, OutputRule, Regex, WordLabels, telling_nothing
from guideway.training.data.answers import spelled
from guideway.training.data.records import invalid
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows


class KeptRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a run's rows.jsonl: which row of the archive it is. What stands in it is in the archive only."""

    row: str
    day: str
    corrected: bool = False
    """Whether the corrections have its answer."""


class Taken(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was taken of an archive, as a run and its report tell it. It holds nothing of any row."""

    endpoint: str
    """`/NAMESPACE/ENDPOINT`, whose answers these are."""
    days: dict[str, int]
    """Day (UTC) → rows of it, in order."""
    versions: dict[int, int]
    """Version of the endpoint → rows that it answered."""
    corrected: int = 0
    """Rows whose answer is a person's."""
    left_out: dict[str, int] = {}
    """Why rows were left out → how many."""

    @property
    def rows(self) -> int:
        """How many were taken."""
        return sum(self.days.values())

    @property
    def told(self) -> str:
        """In a few words, for people."""
        first, last = min(self.days), max(self.days)
        days = f"of {first}" if first == last else f"of {len(self.days)} days from {first} to {last}"
        corrected = f", {self.corrected} of them corrected" if self.corrected else ""
        return f"{self.rows} rows of the archive of {self.endpoint}, {days}{corrected}"

    @property
    def whose_answers(self) -> str:
        """Who gave the answers, in a sentence."""
        if self.corrected == self.rows:
            return "People gave all answers."
        but = ", but for the corrected ones" if self.corrected else ""
        return f"Their answers are those that the endpoint gave, not a person's{but}."


class Frozen(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a run on archived rows began with, beside the rows themselves."""

    taken: Taken
    template: str
    """The template that an endpoint must have for its events to become such texts."""
    around: tuple[str, str] = ("", "")
    """What is taken off each archived text, before and behind."""
    corrections: str = ""
    """The digest of the corrections; empty without any."""
    order: str = ""
    """The digest of all rows in order, those of data.eval too: evaluations are compared row by row."""
    known_answers: bool
    """Whether people gave all answers that the comparison uses. Otherwise its figures say how often models agree."""


@dataclass(frozen=True)
class Version:
    """A version of the archived endpoint, as far as it matters for its rows."""

    template: str
    around: tuple[str, str] | None
    """What its template puts before and behind its only field; None where there is no only field."""
    output: OutputRule
    guidance: int = 0
    """How much named guidance is its own."""


@dataclass(frozen=True)
class ArchivedExample:
    """A row that may be taken."""

    kept: KeptRow
    at_ms: int
    version: int
    text: str
    answer: str
    """As the task's output spells it."""

    @property
    def age(self) -> tuple[int, str]:
        """By this the rows are in order."""
        return self.at_ms, self.kept.row


def foreign_archive(task: Task) -> Refusal | None:
    """Why the task may not read the archive that it names; None if it may. It is asked again where a job arrives."""
    wanted = task.data.archived
    if wanted is None or wanted.namespace == task.namespace:
        return None
    return Refusal(
        FailureCode.NOT_ALLOWED,
        f"the archive of {wanted.endpoint} holds texts of namespace {wanted.namespace}, and a task of {task.namespace} "
        "may not read it: name an endpoint of the task's own namespace in data.archive",
    )


class _NoExampleError(Exception):
    """Why a row is none."""


class Reading:
    """Makes examples of rows, by what the task wants and what the endpoint's versions are."""

    def __init__(
        self,
        wanted: ArchivedRows,
        output: OutputRule,
        versions: Mapping[int, Version],
        corrections: Mapping[str, str],
    ) -> None:
        """corrections: request id → answer, as the output spells it. Raises Refusal(invalid_data) for text: field."""
        self._wanted, self._output, self._versions, self._corrections = wanted, output, versions, corrections
        known = [number for number in versions if not wanted.versions or number in wanted.versions]
        if not known:
            raise invalid(
                f"data.archive.versions: {wanted.endpoint} has none of these versions, only "
                f"{', '.join(map(str, sorted(versions)))}: correct them"
            )
        self._like = versions[max(known)]
        """Rows of another template are other texts."""
        if wanted.text == "field" and self._like.around is None:
            raise invalid(
                f"the template of {wanted.endpoint} does not put one field in as it is, so that nobody can read the "
                "field off a text: set data.archive.text: whole"
            )

    @property
    def template(self) -> str:
        """The template that an endpoint must have for its events to become such texts."""
        return InputRule().template if self._wanted.text == "field" else self._like.template

    @property
    def around(self) -> tuple[str, str]:
        """What is taken off each text, before and behind."""
        return self._like.around if self._wanted.text == "field" and self._like.around is not None else ("", "")

    def example(self, row: Row) -> ArchivedExample | str:
        """The example, or why the row is none."""
        correction = self._corrections.get(row.id)
        try:
            if (why := why_none(row)) and not (why == WITHOUT_VALUE and correction is not None):
                raise _NoExampleError(why)
            if why := self._of_its_version(row, is_corrected=correction is not None):
                raise _NoExampleError(why)
            text = self._text(row)
            answer = self._own_answer(row) if correction is None else correction
            if isinstance(self._output, WordLabels) and _words(answer) != text.split():
                raise _NoExampleError("with labels of other words than its text has")
        except _NoExampleError as error:
            return str(error)
        kept = KeptRow(row.row, row.day, correction is not None)
        return ArchivedExample(kept, row.at_ms, row.endpoint_version, text, answer)

    def _text(self, row: Row) -> str:
        text = between(row.text or "", *self.around)
        if text is None or not text.strip():
            raise _NoExampleError("of another template")
        if self._wanted.max_text_chars is not None and len(text) > self._wanted.max_text_chars:
            raise _NoExampleError("longer than max_text_chars")
        return text

    def _own_answer(self, row: Row) -> str:
        if (least := self._wanted.min_confidence) is not None:
            sure = confidence_of(row)
            if sure is None or sure < least:
                raise _NoExampleError("without a told probability" if sure is None else "below min_confidence")
        try:
            return spelled(row.value, self._output)
        except ValueError:
            raise _NoExampleError("with an answer that the task's output does not have") from None

    def _of_its_version(self, row: Row, *, is_corrected: bool) -> str:
        version = self._versions.get(row.endpoint_version)
        if self._wanted.versions and row.endpoint_version not in self._wanted.versions:
            return "of other versions"
        if version is None:
            return "of versions that the catalogue no longer has"
        if version.template != self._like.template:
            return "of another template"
        if len(row.guidance) > version.guidance and not is_corrected:
            return "with guidance that an event brought"
        # Other answers show by themselves that they do not fit; of these, only training would find it.
        is_of_form = isinstance(self._output, Json | Regex)
        if is_of_form and not is_corrected and telling_nothing(version.output) != telling_nothing(self._output):
            return "of another output"
        return ""


def _words(answer: str) -> list[str]:
    return [pair.rpartition("/")[0] for pair in answer.split()]


def said(left_out: Mapping[str, int]) -> str:
    """Why rows were left out, in words; empty if none was."""
    return ", ".join(f"{count} {why}" for why, count in sorted(left_out.items(), key=lambda one: -one[1]))


def again(
    rows: Iterable[Row],
    kept: Sequence[KeptRow],
    *,
    around: tuple[str, str],
    output: OutputRule,
    corrections: Mapping[str, str],
) -> list[ArchivedExample]:
    """The rows that a run began with, in their order, as they were then, but for those that are no longer there.

    rows: all of the archive, of their days at least.
    """
    wanted = {one.row: one for one in kept}
    found: dict[str, ArchivedExample] = {}
    for row in rows:
        if (one := wanted.get(row.row)) is None or row.text is None:
            continue
        text = between(row.text, *around)
        answer = corrections.get(row.id) if one.corrected else spelled(row.value, output)
        if text is not None and answer is not None:
            found[row.row] = ArchivedExample(one, row.at_ms, row.endpoint_version, text, answer)
    return [found[one.row] for one in kept if one.row in found]
