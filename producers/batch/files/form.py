"""How a batch file is to be read: what was told, and what its name and first bytes say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import ADDRESS

Format = Literal["jsonl", "csv", "tsv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MAX_ROW_BYTES: Final = 8 * 2**20
"""The longest row, in plain text: as long as an event may be."""
MAX_PLAIN_BYTES: Final = 64 * 2**30
"""The largest file, unpacked."""
MAX_COLUMNS: Final = 10_000
ID_COLUMN: Final = "id"
"""Where nothing else is told. A file need not have it."""
_SUFFIXES: Final[Mapping[str, Format]] = MappingProxyType(
    {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "tsv": "tsv", "tab": "tsv", "parquet": "parquet"}
)
_PACKED: Final = frozenset({"gz", "gzip", "bz2", "xz", "zst", "zstd"})
_OTHERS: Final = {
    "json": "JSON as one value: write one object a line, and name it .jsonl (`jq -c '.[]' FILE > FILE.jsonl`)",
    "xlsx": "an Excel file: save it as CSV in UTF-8",
    "xls": "an Excel file: save it as CSV in UTF-8",
    "ods": "a spreadsheet: save it as CSV in UTF-8",
    "zip": "a ZIP archive: unpack it",
    "7z": "an archive: unpack it",
    "tar": "an archive: unpack it",
    "pdf": "a PDF: write its texts into a CSV or JSONL file",
}


class FileForm(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that decides how a file is read; it can be stored, and the file read again in the same way."""

    name: str
    """Of the file, for messages."""
    format: Format
    endpoint: str | None = None
    """`/NAMESPACE/NAME`, to which all rows go; None: each row names its own, in `endpoint` or as OpenAI's form does."""
    columns: dict[str, str] = {}
    """Field of the endpoint → column of the file. Empty: each column is the field of its name. Else only these are
    fields, and the other columns are left out."""
    id_column: str = ID_COLUMN
    unread: Literal["own", "chat", "completion"] = "own"
    """How a row is answered that cannot be read, so that it does not say it itself: as `AnswerForm.kind`."""
    delimiter: str | None = None
    """Between the cells of CSV; None: the line `sep=`, else the sign that divides the head."""
    encoding: str = ""
    """Of text; empty: the byte order mark says it, else UTF-8."""
    most_plain_bytes: int = MAX_PLAIN_BYTES
    """A file that is larger once it is unpacked is refused."""
    most_rows: int | None = None
    """A file that has more rows is refused by `survey`."""
    is_uploaded: bool = False
    """Whether it came over HTTP, where there are no options."""

    def advice(self, option: str, uploaded: str) -> str:
        """What to change, in the words of the door by which the file came."""
        return uploaded if self.is_uploaded else option


def file_form(
    name: str,
    *,
    format: str | None = None,
    endpoint: str | None = None,
    columns: Mapping[str, str] | None = None,
    id_column: str = ID_COLUMN,
    delimiter: str | None = None,
    encoding: str = "",
) -> FileForm:
    """The form of a file by its name and by what is told of it.

    name: the file's name or address; `-`: standard input, of which the format must be told.
    format: one of `FORMATS`; None: the name's ending says it, before one of a compression such as `.gz`.
    Raises Refusal(invalid_setting), one sentence.
    """
    if endpoint is not None:
        endpoint = f"/{endpoint.removeprefix('/')}"
        if not ADDRESS.fullmatch(endpoint):
            raise _wrong(f"--endpoint {endpoint[1:][:80]!r} is no endpoint: write /NAMESPACE/NAME")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise _wrong(f"--delimiter {delimiter[:20]!r} is not one sign: write one such as ';' or tab")
    if encoding:
        _require_encoding(encoding)
    return FileForm(
        name=name,
        format=_format(name, format),
        endpoint=endpoint,
        columns=dict(columns or {}),
        id_column=id_column,
        delimiter=delimiter,
        encoding=encoding,
    )


def column_map(given: list[str]) -> dict[str, str]:
    """`FIELD=COLUMN` each, as `--map` gives them. Raises Refusal(invalid_setting)."""
    found: dict[str, str] = {}
    for one in given:
        field, sign, column = one.partition("=")
        if not (field and sign and column):
            raise _wrong(
                f"--map {one[:80]!r} is not FIELD=COLUMN: write the endpoint's field, =, and the file's column"
            )
        if field in found:
            raise _wrong(f"--map fills the field {field[:80]!r} twice: leave one out")
        found[field] = column
    return found


def _format(name: str, told: str | None) -> Format:
    if told is not None:
        if told not in FORMATS:
            raise _wrong(f"--format {told[:40]!r} is not known: write one of {', '.join(FORMATS)}")
        return told
    if name == "-":
        raise _wrong(f"standard input has no name that says its format: add --format ({', '.join(FORMATS)})")
    endings = name.rpartition("/")[2].lower().split(".")[1:]
    while endings and endings[-1] in _PACKED:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending in _OTHERS:
        raise _wrong(f"{name} is {_OTHERS[ending]}")
    if ending not in _SUFFIXES:
        raise _wrong(f"{name} may be {', '.join(FORMATS)}, and its name does not say which: add --format")
    return _SUFFIXES[ending]


def _require_encoding(name: str) -> None:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise _wrong(
            f"--encoding {name[:40]!r} is no text encoding: write one such as utf-8, cp1252 or shift_jis"
        ) from None


def _wrong(message: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, message)
