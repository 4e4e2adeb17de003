"""Files and folders → documents: text, Markdown, HTML, PDF and rows. Faults are refused, with their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Metadata
from guideway.training.sets.decoding import (
    known_encoding,
    page_text,
    unreadable,
    whole_bytes,
    whole_text,
    without_broken_characters,
)
from guideway.training.sets.document import Document, DocumentFields
from guideway.training.sets.markup import Unreadable, html_as_markdown, pdf_pages
from guideway.training.sets.row_files import read_csv, read_json, read_jsonl
from guideway.training.sets.split import front_matter

_MOST_FINDINGS: Final = 1000
"""After so many faults the rest is not read."""
_SHOWN: Final = 20


def read_documents(paths: Iterable[Path], columns: DocumentFields) -> Iterator[Document]:
    """The documents of files and folders, as `Reading.documents` without `skip_bad`."""
    return Reading(columns).documents(paths)


class Reading:
    """Reads files once, and remembers what it could not read and what it left out."""

    def __init__(self, columns: DocumentFields, *, encoding: str = "utf-8", skip_bad: bool = False) -> None:
        """encoding: of text that does not declare its own. skip_bad: leave out rows and files that cannot be read.

        Raises Refusal(invalid_setting).
        """
        self._columns = columns
        self._encoding = known_encoding(encoding)
        self._skip_bad = skip_bad
        self.bad: list[Refusal] = []
        """The faults of rows and files, each with its place."""
        self.left_out: list[str] = []
        """Files in folders that are not read: of unknown types, and others with the reason in brackets."""

    def documents(self, paths: Iterable[Path]) -> Iterator[Document]:
        """The documents of files, and of folders with their sub-folders, in order of path.

        An identical document counts once.
        Raises Refusal(document_unreadable | document_empty | document_too_large | duplicate_id) at the end, with all
        faults.
        """
        seen: dict[str, tuple[int, str]] = {}
        for root, file in self.files(paths):
            name = file.relative_to(root).as_posix()
            for one in self._read(file, name):
                if isinstance(one, Refusal):
                    self._keep(one)
                    continue
                content = hash((one.text, repr(one.metadata)))
                known, where = seen.setdefault(one.id, (content, name))
                if known == content:
                    yield one
                else:
                    self._keep(_double(one, name, where))
        if self.bad and not self._skip_bad:
            raise _together(self.bad)

    def _read(self, file: Path, name: str) -> Iterator[Document | Refusal]:
        """The documents and faults of one file. Never raises."""
        empty = True
        try:
            _check_name(name)
            for one in _READERS[file.suffix.lower()](file, name, self._columns, self._encoding):
                empty = False
                yield one
        except Refusal as refusal:
            yield refusal
            return
        if empty:
            yield Refusal(FailureCode.DOCUMENT_EMPTY, f"{name} holds no text: leave it out")

    def _keep(self, finding: Refusal) -> None:
        self.bad.append(finding)
        if len(self.bad) >= _MOST_FINDINGS and not self._skip_bad:
            raise _together(self.bad)

    def files(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
        """(the folder that its name is relative to, file), unread.

        Raises Refusal(document_unreadable | document_empty).
        """
        for path in paths:
            if path.is_dir():
                ours = []
                for file, why in _inside(path):
                    if why is None:
                        ours.append(file)
                    else:
                        self.left_out.append(f"{_shown(file.relative_to(path))}{why}")
                if not ours:
                    raise Refusal(
                        FailureCode.DOCUMENT_EMPTY,
                        f"{path} holds no document: give files of type {', '.join(_READERS)}",
                    )
                yield from ((path, file) for file in ours)
            elif not path.exists():
                a_link = ", but a link to what is not there" if path.is_symlink() else ""
                raise unreadable(f"there is no file or folder {_shown(path)}{a_link}")
            elif not path.is_file():
                raise unreadable(f"{_shown(path)} is no plain file: give one, or a folder")
            elif path.suffix.lower() not in _READERS:
                raise unreadable(f"{path} is of no known type: give one of {', '.join(_READERS)}")
            else:
                yield path.parent, path


def _inside(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """(file, the reason if it is left out, else None) in order of path, without hidden folders."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(f"folder {_shown(folder)} cannot be read ({error.strerror}): change its rights") from None
    for path in found:
        hidden, known = path.name.startswith("."), path.suffix.lower() in _READERS
        if path.is_dir():
            if hidden:
                continue
            if path.is_symlink():
                yield path, " (a link to a folder)"
            else:
                yield from _inside(path)
        elif hidden:
            if known:
                yield path, " (hidden)"
        elif not path.is_file():
            yield path, " (no plain file)"
        else:
            yield path, None if known else ""


def _shown(path: Path) -> str:
    return path.as_posix().encode(errors="replace").decode()


def _check_name(name: str) -> None:
    """Raises Refusal for a name that cannot be an id: it becomes the document's id and part of its passages' ids."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise unreadable(f"the name of file {_shown(Path(name))} is not UTF-8: rename it") from None


def _double(one: Document, name: str, where: str) -> Refusal:
    return Refusal(
        FailureCode.DUPLICATE_ID,
        f"{name}: id {one.id[:80]!r} is that of another document in {where}: give each its own id",
    )


def _together(findings: list[Refusal]) -> Refusal:
    """One refusal for all of them, with the code of the first."""
    first = findings[0]
    if len(findings) == 1:
        return first
    shown = "; ".join(one.message for one in findings[:_SHOWN])
    more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    return Refusal(first.code, f"{len(findings)} findings: {shown}{more}. Mend them, or leave them out with --skip-bad")


def _text(file: Path, name: str, _: DocumentFields, encoding: str) -> Iterator[Document]:
    text = whole_text(file, name, encoding)
    if text.strip():
        yield Document(id=name, text=text, metadata={"source": name})


def _markdown(file: Path, name: str, _: DocumentFields, encoding: str) -> Iterator[Document]:
    metadata, text = front_matter(whole_text(file, name, encoding))
    if text.strip():
        yield Document(id=name, text=text, metadata={**metadata, "source": name}, markdown=True)


def _html(file: Path, name: str, _: DocumentFields, encoding: str) -> Iterator[Document]:
    title, text = html_as_markdown(page_text(whole_bytes(file, name), name, encoding))
    if text:
        titled: Metadata = {"title": title} if title else {}
        yield Document(id=name, text=text, metadata={"source": name, **titled}, markdown=True)


def _pdf(file: Path, name: str, _: DocumentFields, __: str) -> Iterator[Document]:
    try:
        pages = [without_broken_characters(page) for page in pdf_pages(whole_bytes(file, name))]
    except Unreadable as error:
        raise unreadable(f"{name}: {error}") from None
    if not any(page.strip() for page in pages):
        raise Refusal(
            FailureCode.DOCUMENT_EMPTY, f"{name} has no text, only pictures perhaps: run character recognition over it"
        )
    for number, page in enumerate(pages, 1):
        if page.strip():
            yield Document(id=f"{name}#page={number}", text=page, metadata={"source": name, "page": number})


_Reader = Callable[[Path, str, DocumentFields, str], Iterator[Document | Refusal]]
_READERS: Final[dict[str, _Reader]] = {
    ".txt": _text,
    ".text": _text,
    ".log": _text,
    ".rst": _text,
    ".org": _text,
    ".adoc": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".mdx": _markdown,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
}
