"""Documents of every type are read, and what cannot be read is refused with its code and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.sets.build import Splitting, merged, passages_of
from guideway.training.sets.decoding import without_broken_characters
from guideway.training.sets.document import Document, DocumentFields
from guideway.training.sets.documents import Reading, read_documents
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
    return list(read_documents(paths, DocumentFields(**columns)))


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


def test_metadata_keep_what_of_a_list_can_be_filtered_by(write: WriteFile) -> None:
    file = write("a.jsonl", '{"text": "a", "id": true, "tags": ["x", null, 1.5, 2], "none": [null], "empty": []}')
    [one] = read(file)
    assert (one.id, one.metadata) == ("true", {"source": "a.jsonl", "tags": ["x", 2], "empty": []})


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
    ("utf16.csv", "id,text".encode("utf-16-le"), FailureCode.DOCUMENT_UNREADABLE),
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
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = write("secret.txt", "x")
    monkeypatch.setattr(Path, "open", refuse)
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


def test_the_same_text_with_other_metadata_is_another_fact(write: WriteFile) -> None:
    rows = [
        '{"id": "oslo", "text": "The branch opens at nine.", "branch": "oslo"}',
        '{"id": "rome", "text": "The branch opens at nine.", "branch": "rome"}',
        '{"id": "one", "text": "The branch opens at nine.", "branch": 1}',
        '{"id": "text", "text": "The branch opens at nine.", "branch": "1"}',
    ]
    passages = passages_of(read(write("rows.jsonl", "\n".join(rows))), Splitting())
    assert [(one.id, one.metadata["branch"]) for one in passages] == [
        ("oslo", "oslo"),
        ("rome", "rome"),
        ("one", 1),
        ("text", "1"),
    ]
    assert len(merged(passages, [Passage(id="x", document="x", text=passages[0].text)])) == 5


def test_the_same_text_in_two_places_is_kept_once_with_both_places(write: WriteFile, tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.md"):
        write(name, "# Legal\n\nAll rights reserved.\n")
    (passage,) = passages_of(read(tmp_path), Splitting())
    assert passage.metadata == {"source": ["a.md", "b.md", "c.md"], "section": "Legal"}


CAFE = "Le café est ouvert."


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("declared.html", f"<meta charset=windows-1252><p>{CAFE}</p>".encode("cp1252"), {}),
        ("latin.html", f'<meta http-equiv=x content="text/html; charset=iso-8859-1">{CAFE}'.encode("cp1252"), {}),
        ("stale.html", f"<meta charset=windows-1252><p>{CAFE}</p>".encode(), {}),
        ("xml.html", f'<?xml version="1.0" encoding="iso-8859-15"?><p>{CAFE}</p>'.encode("iso-8859-15"), {}),
        ("utf16.txt", CAFE.encode("utf-16"), {}),
        ("utf16be.txt", b"\xfe\xff" + CAFE.encode("utf-16-be"), {}),
        ("utf32.md", CAFE.encode("utf-32"), {}),
        ("utf16.csv", f"id,text\r\n1,{CAFE}\r\n".encode("utf-16"), {}),
        ("mark.csv", f"\ufeffid,text\n1,{CAFE}\n".encode(), {}),
        ("mark.jsonl", f'\ufeff{{"text": "{CAFE}"}}\n'.encode(), {}),
        ("ansi.csv", f"id,text\n1,{CAFE}\n".encode("cp1252"), {"encoding": "cp1252"}),
        ("ansi.txt", CAFE.encode("cp1252"), {"encoding": "windows-1252"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_is_decoded_as_it_declares(write: WriteFile, name: str, content: bytes, options: dict[str, Any]) -> None:
    reading = Reading(DocumentFields(), **options)
    assert [one.text for one in reading.documents([write(name, content)])] == [CAFE]


@pytest.mark.parametrize("encoding", ["utf-99", "base64", "zip", ""])
def test_an_encoding_that_is_none_is_refused(encoding: str) -> None:
    with pytest.raises(Refusal) as caught:
        Reading(DocumentFields(), encoding=encoding)
    assert caught.value.code is FailureCode.INVALID_SETTING


@pytest.mark.parametrize(
    ("name", "content", "metadata"),
    [
        ("a.csv", "id;text;lang\n1;The library opens, mostly, at nine.;en\n", {"lang": "en"}),
        ("b.csv", "sep=,\nid,text\n1,The library opens.\n", {}),
        ("c.csv", "\n\r\nid,text\n1,The library opens.\n", {}),
        ("c.csv", "SEP=|\nid|text|n\n1|The library opens.|2\n", {"n": "2"}),
        ("d.tsv", "id\ttext\n1\tThe library opens.\n", {}),
        ("e.json", '[{"id": 1, "text": "The library opens.", "n": 2}]', {"n": 2}),
        ("f.json", '{"id": 1, "text": "The library opens."}', {}),
    ],
)
def test_rows_are_read_however_they_are_divided(
    write: WriteFile, name: str, content: str, metadata: dict[str, object]
) -> None:
    (document,) = read(write(name, content))
    assert document.id == "1"
    assert document.text.startswith("The library opens")
    assert document.metadata == {"source": name, **metadata}


def test_a_head_without_the_text_field_names_the_dividers_that_were_tried(write: WriteFile) -> None:
    with pytest.raises(Refusal, match=r"'text' in its head, whichever of commas, semi.*--text-field"):
        read(write("a.csv", "id;body\n1;x\n"))


def test_all_bad_rows_are_told_at_once_or_skipped_and_listed(write: WriteFile) -> None:
    rows = [f"{n},Fact {n}." for n in range(200)]
    rows[17], rows[40], rows[150] = "17,", "40,too,many", '150,"open" quote'
    file = write("facts.csv", "id,text\n" + "\n".join(rows) + "\n")
    other = write("more.jsonl", '{"id": 3, "text": "Another three."}\n{"id": "new", "text": "New."}\nnothing\n')
    with pytest.raises(Refusal) as caught:
        read(file, other)
    for place in (
        "facts.csv, row 19",
        "facts.csv, row 42 has more or fewer fields between commas",
        "facts.csv, line 152",
        "id '3'",
        "more.jsonl, line 3",
    ):
        assert place in caught.value.message
    assert caught.value.message.startswith("5 findings: ")
    assert "--skip-bad" in caught.value.message
    reading = Reading(DocumentFields(), skip_bad=True)
    assert len(list(reading.documents([file, other]))) == 198
    assert len(reading.bad) == 5


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.csv", 'id,text\n1,"open\n2,b\n3,"c"\n', "a.csv, line 2: it is no CSV"),
        ("a.csv", 'id,text\n1, "open"\n2,b\n3,c\n', "a.csv, line 2: a space stands before the quote"),
        ("a.csv", f"id,text\n1,{'w' * 9_000_000}\n2,b\n3,c\n", "a.csv, line 2: it has more than 8 MiB"),
        (
            "a.jsonl",
            f'{{"id": 1, "text": "{"w" * 9_000_000}"}}\n{{"id": 2, "text": "b"}}\n{{"id": 3, "text": "c"}}',
            "line 1",
        ),
    ],
    ids=["open quote", "spaced quote", "long line of CSV", "long line of JSONL"],
)
def test_a_bad_row_costs_no_other_row(write: WriteFile, name: str, content: str, where: str) -> None:
    reading = Reading(DocumentFields(), skip_bad=True)
    assert [(one.id, one.text) for one in reading.documents([write(name, content)])] == [("2", "b"), ("3", "c")]
    (bad,) = reading.bad
    assert where in bad.message


def test_a_folder_tells_what_it_leaves_out(write: WriteFile, tmp_path: Path) -> None:
    for name in ("a.txt", "b.docx", "C.RST", "d.mdx", "sub/e.xlsx", "G.MD", ".git/config"):
        write(name, "words")
    reading = Reading(DocumentFields())
    assert sorted(one.id for one in reading.documents([tmp_path])) == ["C.RST", "G.MD", "a.txt", "d.mdx"]
    assert reading.left_out == ["b.docx", "sub/e.xlsx"]


def test_a_file_name_that_is_not_utf_8_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text("Opens at nine.")
    with pytest.raises(Refusal, match=r"caf\?\.txt is not UTF-8: rename it"):
        read(tmp_path)


def test_code_keeps_its_lines_and_a_row_of_a_table_is_one_line(write: WriteFile) -> None:
    page = (
        "<h1>Code</h1><pre>def f():\n    return  1\n</pre><table><tr><th>City</th><th>People</th></tr>"
        "<tr><td>Oslo</td><td><p>700,000</p></td></tr><tr><td>Rome<br>(Roma)</td><td></td></tr></table><p>After."
    )
    (document,) = read(write("page.html", page))
    assert document.text == (
        "# Code\n\n```\ndef f():\n    return  1\n\n```\n\nCity | People\nOslo | 700,000\nRome (Roma) |\n\nAfter."
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_front_matter_is_metadata(write: WriteFile, end: str) -> None:
    lines = ["---", "title: Opening hours", "lang: no", "tags: [a, b]", "deep: {x: 1}", "---", "# Hours", "", "Nine."]
    (document,) = read(write("a.md", end.join(lines)))
    assert document.metadata == {"source": "a.md", "title": "Opening hours", "lang": "no", "tags": ["a", "b"]}
    assert document.text.split() == ["#", "Hours", "Nine."]


@pytest.mark.parametrize("text", ["---\nno matter\n", "---\n- a\n---\nx", "---\na: [\n---\nx", "a\n---\nb: c\n---\n"])
def test_what_is_no_front_matter_stays_text(write: WriteFile, text: str) -> None:
    (document,) = read(write("a.md", text))
    assert (document.text, document.metadata) == (text, {"source": "a.md"})


def test_escapes_in_front_matter_are_whole_characters(write: WriteFile) -> None:
    lines = ["---", r'title: "\ud83d\ude00 a\ud83d\0"', r'tags: ["\ud83d\ude00"]', "---", "Nine."]
    [document] = read(write("a.md", "\n".join(lines)))
    assert document.metadata == {"source": "a.md", "title": "\U0001f600 a", "tags": ["\U0001f600"]}


def test_halves_of_characters_in_a_pdf_are_left_out() -> None:
    assert without_broken_characters("a\ud83d b\0c \U0001f600 \udc00") == "a bc \U0001f600 "
