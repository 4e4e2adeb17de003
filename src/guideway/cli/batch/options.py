"""What the commands that take a batch file have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from guideway.producers.batch.files.form import column_map, file_form
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.batch import Order, OutputForm
from guideway.usecases.batch.submit import Asked

File = Annotated[str, typer.Argument(help="JSONL, CSV or Parquet, also compressed; an address; - for standard input.")]
Endpoint = Annotated[
    str | None, typer.Option(help="/NAMESPACE/NAME, for all rows. Without it each row names its endpoint.")
]
Map = Annotated[list[str] | None, typer.Option("--map", help="FIELD=COLUMN: a field of the endpoint, by its column.")]
IdColumn = Annotated[str, typer.Option(help="The column or field with each row's id.")]
Format = Annotated[
    str | None, typer.Option("--format", help="jsonl, csv, tsv or parquet, where the name does not say it.")
]
Delimiter = Annotated[str | None, typer.Option(help="Between the cells of CSV, where the file does not show it.")]
Encoding = Annotated[str, typer.Option(help="Of text that is not UTF-8, such as cp1252.")]
Namespace = Annotated[
    str | None, typer.Option(help="Whose job it is. Default: that of the endpoints that the rows name.")
]
Deadline = Annotated[str, typer.Option(help="30m, 24h or 7d; rows without an answer by then fail.")]
Ordering = Annotated[str, typer.Option("--order", help="Of the results: file, or as-they-come.")]
Dedupe = Annotated[bool, typer.Option("--dedupe", help="Compute rows that ask the same once; each gets the answer.")]

Parquet = Annotated[bool, typer.Option("--parquet", help="Results as Parquet; else JSONL.")]

_SPAN: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The options by which a command takes a batch file. Typer reads them off a command with `taking_a_file`."""

    file: File
    endpoint: Endpoint = None
    map_: Map = None
    id_column: IdColumn = "id"
    format_: Format = None
    delimiter: Delimiter = None
    encoding: Encoding = ""
    namespace: Namespace = None
    deadline: Deadline = "24h"
    order: Ordering = "file"
    dedupe: Dedupe = False

    def asked(self, *, output: OutputForm, out: Path | None = None) -> Asked:
        """What they ask. out: where the results are to go, if that is known. Raises Refusal(invalid_setting)."""
        form = file_form(
            self.file,
            format=self.format_,
            endpoint=self.endpoint,
            columns=column_map(self.map_ or []),
            id_column=self.id_column,
            delimiter=self.delimiter,
            encoding=self.encoding,
        )
        return Asked(
            form=form,
            namespace=self.namespace,
            deadline_s=span_s(self.deadline),
            order=_order(self.order),
            dedupe=self.dedupe,
            output=output,
            out="" if out is None else str(out.absolute()),
        )


def taking_a_file(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `FileOptions`, which is its first parameter."""
    hints = get_type_hints(FileOptions, include_extras=True)
    of_file = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(FileOptions)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    _, *own = [
        one.replace(kind=Parameter.KEYWORD_ONLY, annotation=own_hints[one.name])
        for one in signature(command).parameters.values()
    ]

    @wraps(command)
    def expanded(**given: Any) -> None:
        command(FileOptions(**{field.name: given.pop(field.name) for field in fields(FileOptions)}), **given)

    expanded.__signature__ = Signature([*of_file, *own])  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in (*of_file, *own)}
    return expanded


def span_s(text: str) -> float:
    """Seconds of `30m`, `24h` and the like. Raises Refusal(invalid_setting)."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise Refusal(FailureCode.INVALID_SETTING, f"--deadline {text[:40]!r} is no time: write one such as 30m or 24h")
    return float(found[1]) * _SECONDS[found[2]]


def _order(text: str) -> Order:
    match text:
        case "file" | "as-they-come":
            return text
    raise Refusal(FailureCode.INVALID_SETTING, f"--order {text[:40]!r} is not known: write file or as-they-come")
