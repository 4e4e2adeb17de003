"""The part of a task that says where its rows come from: files of examples, or the archive of an endpoint."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.names.addresses import NAME
from guideway.training.data.records import Format
from guideway.training.runs.task_methods import Count, TaskPart

Share = Annotated[float, Meta(gt=0, lt=1)]
ArchiveAddress = Annotated[
    str, Meta(pattern=rf"^/{NAME.pattern}/{NAME.pattern}\Z", description="`/NAMESPACE/ENDPOINT`")
]
Day = Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?\Z", description="a day in UTC, `YYYY-MM-DD`")]
Version = Annotated[int, Meta(ge=1)]
DEFAULT_SAMPLE = 5000


class Columns(TaskPart, frozen=True, kw_only=True):
    """The columns of text and answer. By default `text` and `label`, `prompt` and `completion`, or `messages`."""

    text: str
    """The name of the column with the input text."""
    answer: str
    """The name of the column with the right answer."""


class ArchivedRows(TaskPart, frozen=True, kw_only=True):
    """Which rows of an endpoint's archive are examples. Their answers are the endpoint's own, and no person's."""

    endpoint: ArchiveAddress
    """An endpoint of the task's own namespace."""
    since: Day = ""
    """The first day of the rows; empty: the first that the archive holds."""
    until: Day = ""
    """The last day of the rows; empty: the last that the archive holds."""
    versions: list[Version] = msgspec.field(default_factory=list)
    """Only what these versions of the endpoint answered. Empty: all."""
    min_confidence: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The least probability of an answer, as replies tell it where the endpoint's output has `probabilities`. None: any
    answer that is no null."""
    text: Literal["whole", "field"] = "whole"
    """`whole`: the text as the endpoint's template made it, for an endpoint with the same template. `field`: what stood
    in the template's one field, for an endpoint with the template `{text}`."""
    max_text_chars: Count | None = None
    """The longest text. None: any."""
    sample: Annotated[int, Meta(ge=8, le=1_000_000)] = DEFAULT_SAMPLE
    """The most rows; of more, so many are drawn by chance. Rows with the same text count once."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 1
    """The seed of this draw. The same seed draws the same rows as long as the archive holds the same."""
    corrections: Annotated[str, Meta(min_length=1)] | None = None
    """A file with the columns `id` (of a request) and `label` or `value`: answers of people, in the place of the
    archived ones. These rows are drawn first, whatever their confidence."""

    def __post_init__(self) -> None:
        for name, day in (("since", self.since), ("until", self.until)):
            if day and not _is_day(day):
                raise ValueError(f"{name} is {day!r}, which is no day: write YYYY-MM-DD")
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"until is {self.until}, before since ({self.since}): exchange the two")

    @property
    def namespace(self) -> str:
        """The namespace whose archive it is."""
        return self.endpoint.split("/")[1]

    @property
    def name(self) -> str:
        """The endpoint's name in its namespace."""
        return self.endpoint.split("/")[2]


class Data(TaskPart, frozen=True, kw_only=True):
    """The examples: a file `train`, or an `archive`. Paths are relative to the task's file."""

    train: Annotated[str, Meta(min_length=1)] | None = None
    """A file of examples: JSONL, JSON, CSV or TSV."""
    archive: ArchiveAddress | ArchivedRows | None = None
    """Instead of `train`: the archive of an endpoint of this namespace. The address alone takes the defaults."""
    eval: str | None = None
    """A file of rows for the comparison, which no training uses. Without it, `eval_share` of the rows is kept out."""
    eval_share: Share = 0.2
    """The share of the rows to report on, if there is no `eval`."""
    folds: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Without `eval`: the rows are divided into so many parts, and a training on the other parts reports on each.
    None: 5 if there are fewer than 200 rows. 0: a share is kept out, however few rows there are."""
    group: str = ""
    """A column. Rows with the same value in it, such as those of one customer, are all trained on or all kept out."""
    validation_share: Share = 0.1
    """The share of the rows that is kept out to choose prompts and to end training. The comparison does not use it."""
    max_validation_rows: Count = 200
    """The most validation rows, however many rows there are."""
    format: Format | None = None
    """The format of the files. None: by the file's suffix."""
    encoding: str = "utf-8"
    """The encoding of files without a byte order mark, for example `cp1252`."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What happens to rows of a file with the same text and answer as another row."""
    columns: Columns | None = None
    """The columns of text and answer, if they have other names."""
    ignore_columns: list[str] = msgspec.field(default_factory=list)
    """Columns that are ignored. Any other unknown column is refused."""
    origin: str = ""
    """Source and licence of the data, for the model card."""

    def __post_init__(self) -> None:
        if (self.train is None) == (self.archive is None):
            raise ValueError(
                "the examples are those of `train`, a file, or of `archive`, an endpoint's archived results: set one "
                "of the two"
            )
        if self.archive is not None and self.group:
            raise ValueError(
                "group names a column, and archived rows have none: leave it out, or export them to a file"
            )
        if self.folds == 1:
            raise ValueError("folds is 1, which leaves nothing to learn from: set 0 for none, or 2 and more")
        if self.folds and self.eval is not None:
            raise ValueError("folds divides the rows of train, and eval names others: set one of the two")

    @property
    def archived(self) -> ArchivedRows | None:
        """`archive` with its defaults; None: the examples are files."""
        return ArchivedRows(endpoint=self.archive) if isinstance(self.archive, str) else self.archive

    @property
    def files(self) -> list[str]:
        """The files that it names."""
        corrections = self.archived.corrections if self.archived is not None else None
        return [file for file in (self.train, self.eval, corrections) if file is not None]


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
