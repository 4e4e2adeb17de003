"""Documents of every type are read, and what cannot be read is refused with its code and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.sets.build import Splitting, merged, passages_of
from guideway.training.sets.documents import Columns, Document, read_documents
from guideway.workers.retrieval.set_folder import Passage

WriteFile = Callable[[str, str | bytes], Path]

PDF = b"""%%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
4 0 obj<</Length %d>>stream
%s
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
startxref
0
%%%%EOF
"""


def pdf(drawn: bytes) -> bytes:
    return PDF % (len(drawn), drawn)


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(name: str, content: str | bytes) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


def read(*paths: Path, **columns: str) -> list[Document]:
    return list(read_documents(paths, Columns(**columns)))


def test_a_folder_of_every_type(write: WriteFile, tmp_path: Path) -> None:
    write("a.txt", "\ufeffPlain text.")
    write("b.md", "# Head\nMarked text.")
    write("c.jsonl", '{"id": "mouse", "text": "A mouse.", "year": 1990, "tags": ["a", "b"], "deep": {"x": 1}}\n\n')
    write("d.csv", 'id,text,lang\n7,"Two\nlines.",en\n')
    write("e.html", "<title>T</title><nav>no</nav><h1>Head</h1><p>Some <b>bold</b> text.</p><script>no</script>")
    write("f.pdf", pdf(b"BT /F 12 Tf 10 100 Td (Printed text.) Tj ET"))
    write("sub/g.txt", "Below.")
    write("h.docx", "left out")
    write(".hidden.txt", "left out")
    found = {one.id: one for one in read(tmp_path)}
    assert {id_: one.text for id_, one in found.items()} == {
        "a.txt": "Plain text.",
        "b.md": "# Head\nMarked text.",
        "mouse": "A mouse.",
        "7": "Two\nlines.",
        "e.html": "# Head\n\nSome bold text.",
        "f.pdf#page=1": "Printed text.",
        "sub/g.txt": "Below.",
    }
    assert found["mouse"].metadata == {"source": "c.jsonl", "year": 1990, "tags": ["a", "b"]}
    assert found["7"].metadata == {"source": "d.csv", "lang": "en"}
    assert found["e.html"].metadata == {"source": "e.html", "title": "T"}
    assert found["f.pdf#page=1"].metadata == {"source": "f.pdf", "page": 1}


def test_rows_without_an_id_are_named_after_their_place(write: WriteFile) -> None:
    file = write("words.jsonl", '{"term": "cat", "text": "An animal."}\n{"term": "dog", "text": "Another."}')
    assert [one.id for one in read(file)] == ["words.jsonl:1", "words.jsonl:2"]
    assert [one.id for one in read(file, id="term")] == ["cat", "dog"]


BAD: list[tuple[str, str | bytes, FailureCode]] = [
    ("empty.txt", "", FailureCode.DOCUMENT_EMPTY),
    ("blank.md", " \n\t\n", FailureCode.DOCUMENT_EMPTY),
    ("empty.jsonl", "\n\n", FailureCode.DOCUMENT_EMPTY),
    ("head.csv", "id,text\n", FailureCode.DOCUMENT_EMPTY),
    ("empty.html", "<html><script>x</script></html>", FailureCode.DOCUMENT_EMPTY),
    ("pictures.pdf", pdf(b"0 0 50 50 re f"), FailureCode.DOCUMENT_EMPTY),
    ("blank.jsonl", '{"text": " "}', FailureCode.DOCUMENT_EMPTY),
    ("broken.pdf", b"%PDF-1.4 nothing", FailureCode.DOCUMENT_UNREADABLE),
    ("filter.pdf", pdf(b"x").replace(b"/Length", b"/Filter /Unheard /Length"), FailureCode.DOCUMENT_UNREADABLE),
    ("no.pdf", b"no pdf at all", FailureCode.DOCUMENT_UNREADABLE),
    ("latin.txt", "Käse".encode("latin-1"), FailureCode.DOCUMENT_UNREADABLE),
    ("mixed.jsonl", b'{"text": "K\xc3\xa4se"}\n{"text": "K\xe4se"}', FailureCode.DOCUMENT_UNREADABLE),
    ("utf16.txt", "words".encode("utf-16-le"), FailureCode.DOCUMENT_UNREADABLE),
    ("utf16.csv", "id,text".encode("utf-16"), FailureCode.DOCUMENT_UNREADABLE),
    ("words.doc", "no known type", FailureCode.DOCUMENT_UNREADABLE),
    ("list.jsonl", "[1]", FailureCode.DOCUMENT_UNREADABLE),
    ("cut.jsonl", '{"text": "a"', FailureCode.DOCUMENT_UNREADABLE),
    ("deep.jsonl", '{"text": ' + "[" * 100_000, FailureCode.DOCUMENT_UNREADABLE),
    ("other.jsonl", '{"body": "a"}', FailureCode.DOCUMENT_UNREADABLE),
    ("number.jsonl", '{"text": 5}', FailureCode.DOCUMENT_UNREADABLE),
    ("short.csv", "id,text\n1\n", FailureCode.DOCUMENT_UNREADABLE),
    ("wide.csv", "id,text\n1,a,b\n", FailureCode.DOCUMENT_UNREADABLE),
    ("quote.csv", 'id,text\n1,"a" b\n', FailureCode.DOCUMENT_UNREADABLE),
    ("double.jsonl", '{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}', FailureCode.DUPLICATE_ID),
]


@pytest.mark.parametrize(("name", "content", "code"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_documents_get_their_code(write: WriteFile, name: str, content: str | bytes, code: FailureCode) -> None:
    file = write(name, content)
    with pytest.raises(Refusal) as caught:
        read(file)
    assert caught.value.code is code
    assert name in caught.value.message


def test_a_line_of_any_length_takes_no_more_memory_than_the_limit(write: WriteFile, tmp_path: Path) -> None:
    """1 GiB that is not there: a hole in a file, read no further than it has to be."""
    file = write("line.jsonl", '{"text": "')
    with file.open("r+b") as stream:
        stream.truncate(2**30)
    with pytest.raises(Refusal) as caught:
        read(file)
    assert caught.value.code is FailureCode.DOCUMENT_TOO_LARGE
    whole = write("whole.txt", "a")
    with whole.open("r+b") as stream:
        stream.truncate(2**30)
    with pytest.raises(Refusal) as caught:
        read(whole)
    assert caught.value.code is FailureCode.DOCUMENT_TOO_LARGE


def test_a_file_that_may_not_be_read_is_refused(write: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    file = write("secret.txt", "x")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Refusal, match=r"secret\.txt cannot be read"):
        read(file)


def test_the_same_document_twice_counts_once(write: WriteFile) -> None:
    rows = '{"id": "a", "text": "one"}\n' * 2 + '{"id": "b", "text": "one"}\n{"id": "c", "text": "two"}'
    passages = passages_of(read(write("rows.jsonl", rows)), Splitting())
    assert [passage.id for passage in passages] == ["a", "c"]


def test_passages_of_a_document_are_numbered_and_know_their_section() -> None:
    text = "# Head\n" + " ".join(f"Some words of number {i}." for i in range(9))
    document = Document(id="d", text=text, metadata={"source": "d.md"}, markdown=True)
    passages = passages_of([document], Splitting(max_chars=80, overlap_chars=20))
    assert [passage.id for passage in passages][:3] == ["d", "d#2", "d#3"]
    assert all(passage.text.startswith("Head\n\nSome") and len(passage.text) <= 80 for passage in passages)
    assert passages[1].metadata == {"source": "d.md", "section": "Head"}
    assert {passage.document for passage in passages} == {"d"}


def test_adding_replaces_documents_of_the_same_id() -> None:
    def passage(id_: str, text: str) -> Passage:
        return Passage(id=id_, document=id_.partition("#")[0], text=text)

    old = [passage("a", "a1"), passage("a#2", "a2"), passage("b", "b1"), passage("c", "c1")]
    new = [passage("a", "a3"), passage("d", "c1")]
    assert [(one.id, one.text) for one in merged(old, new)] == [("b", "b1"), ("a", "a3"), ("d", "c1")]


@pytest.mark.parametrize(("max_chars", "overlap_chars"), [(10, 0), (100, 51), (100, -1)])
def test_splitting_out_of_bounds_is_refused(max_chars: int, overlap_chars: int) -> None:
    with pytest.raises(Refusal) as caught:
        Splitting(max_chars=max_chars, overlap_chars=overlap_chars)
    assert caught.value.code is FailureCode.INVALID_SETTING
