"""Files as people have them, made into passages: what is in them arrives, or is refused or told by its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.sets.build import Splitting, passages_of
from guideway.training.sets.decoding import known_encoding
from guideway.training.sets.document import DocumentFields
from guideway.training.sets.documents import Reading
from guideway.workers.retrieval.set_folder import Passage

HERE: Final = Path(__file__).parent
FILES: Final = HERE / "19_rag_files"
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return file

    return write


def passages(*files: Path, encoding: str = "utf-8", max_chars: int = 800) -> list[Passage]:
    documents = Reading(DocumentFields(), encoding=encoding).documents(files)
    return passages_of(documents, Splitting(max_chars=max_chars, overlap_chars=min(120, max_chars // 4)))


def texts(*files: Path, encoding: str = "utf-8", max_chars: int = 800) -> list[str]:
    return [one.text for one in passages(*files, encoding=encoding, max_chars=max_chars)]


def refused(file: Path) -> str:
    with pytest.raises(Refusal) as caught:
        passages(file)
    assert caught.value.code in {
        FailureCode.DOCUMENT_EMPTY,
        FailureCode.DOCUMENT_UNREADABLE,
        FailureCode.DOCUMENT_TOO_LARGE,
        FailureCode.DUPLICATE_ID,
    }
    assert file.name in caught.value.message
    return caught.value.message


# The files that were brought ------------------------------------------------------------------------------------------


def test_a_pdf_with_half_of_a_character_is_read_without_it() -> None:
    for one in texts(HERE / "05_pdf_surrogate" / "surrogate.pdf"):
        assert one.encode()
        assert "\0" not in one


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a_semicolon.csv", "row 3 has more or fewer fields between semicolons"),
        ("c_one_blank.csv", "row 151 has an empty text"),
        ("c_one_ragged.csv", "row 151 has more or fewer fields between commas"),
        ("k_cp1252.csv", "line 2: its byte 0xe9 is of another encoding: name the file's with --encoding"),
    ],
)
def test_a_bad_row_of_a_brought_file_is_told_by_its_place(name: str, words: str) -> None:
    assert words in refused(FILES / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b_sep_line.csv", "The library opens at nine."),
        ("e_declared.html", "The café is open."),
        ("l_utf16.txt", "The library opens at nine."),
        ("m.markdown", "Hours\n\nOpens at nine."),
        ("n.htm", "Opens at nine."),
        ("h_front.md", "Hours\n\nThe library opens at nine."),
        (
            "g_code.html",
            "Code\n\n```\ndef f():\n    return 1\n\n```\n\nCity | People\nOslo | 700,000\nRome | 2,800,000",
        ),
    ],
)
def test_a_brought_file_is_read(name: str, text: str) -> None:
    assert texts(FILES / name) == [text]


def test_front_matter_of_a_brought_file_is_metadata() -> None:
    (one,) = passages(FILES / "h_front.md")
    assert one.metadata == {
        "source": "h_front.md",
        "section": "Hours",
        "title": "Opening hours",
        "author": "staff",
        "lang": "en",
    }


@pytest.mark.parametrize("name", ["i_chinese.txt", "i2_chinese.txt"])
def test_chinese_is_cut_at_its_full_stops(name: str) -> None:
    found = texts(FILES / name)
    assert len(found) > 1
    assert all(one[-1] in "。！" for one in found)


def test_two_files_with_the_same_ids_are_told_at_once() -> None:
    with pytest.raises(Refusal, match=r"2 findings: .*id '1'.*id '2'") as caught:
        passages(FILES / "d_two")
    assert caught.value.code is FailureCode.DUPLICATE_ID


def test_a_brought_folder_tells_what_it_leaves_out() -> None:
    reading = Reading(DocumentFields(), skip_bad=True)
    found = list(reading.documents([FILES / "j_other"]))
    assert {one.metadata["source"] for one in found} == {"G.MD", "a.txt", "c.rst", "d.mdx", "f.json"}
    assert reading.left_out == [".hidden.txt (hidden)", "b.docx", "e.xlsx"]
    assert [one.message[:40] for one in reading.bad] == ["h.tsv has no text field 'text' in its he"]


def test_suffixes_may_be_in_capitals() -> None:
    assert len(passages(FILES / "upper")) == 3


# Their neighbours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", 'id,text\r\n1,"a\r\nb, ""c"""\r\n', 'a\r\nb, "c"'),
        ("a.csv", "id, text\n1,a\n", "a"),
        ("a.csv", "id,text,,\n1,a,,\n", "a"),
        ("a.csv", ",id,text\n0,1,a\n", "a"),
        ("a.csv", 'id,text,"price\nin euro"\n1,a,5\n', "a"),
        ("a.csv", "sep=\t\nid\ttext\n1\ta\n", "a"),
        ("a.csv", '"sep=;"\nid;text\n1;a, b\n', "a, b"),
        ("a.csv", "id,text\r1,a\r", "a"),
        ("a.csv", "id\ttext\r\n1\tcafé\r\n".encode("utf-16"), "café"),
        ("a.ndjson", '{"text": "a"}\n', "a"),
        ("a.txt", "a\rb\r\rc", "a\nb\n\nc"),
        ("a.org", "* Head\ntext", "* Head\ntext"),
        ("a.md", "# A\n\n```\n~~~\n# no heading\n```\n\nb", "A\n\n```\n~~~\n# no heading\n```\n\nb"),
        ("a.md", "````\n```\n# no heading\n```\n````", "````\n```\n# no heading\n```\n````"),
        ("a.md", "# Closed on Sundays\n", "Closed on Sundays"),
        ("a.md", "# Hours\n\n## Closed on Sundays\n", "Hours\n\nClosed on Sundays"),
        ("a.md", "---\n\nNote: closed.\n\n---\n\nOpen.", "---\n\nNote: closed.\n\n---\n\nOpen."),
        ("a.html", "<p>one <img src=x alt=y> two <ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "one two 漢(kan)"),
    ],
)
def test_neighbours_are_read(write: Write, name: str, content: str | bytes, text: str) -> None:
    assert texts(write(name, content)) == [text]


@pytest.mark.parametrize(
    ("matter", "metadata"),
    [
        ('+++\ntitle = "Hours"\ndraft = false\nday = 2024-01-01\n+++\n', ("Hours", "false", "2024-01-01")),
        (
            "---\ntitle: Hours: a year\ndraft: no\nday: 2024-01-01\n---\n",
            ("Hours: a year", "no", "2024-01-01"),
        ),
        ("---\r\ntitle: Hours\r\ndraft: on\r\nday: 1:30\r\n---\r\n", ("Hours", "on", "1:30")),
    ],
    ids=["toml", "colon", "crlf"],
)
def test_front_matter_as_people_write_it(write: Write, matter: str, metadata: tuple[str, ...]) -> None:
    (one,) = passages(write("a.md", matter + "text"))
    assert one.text == "text"
    assert tuple(one.metadata[key] for key in ("title", "draft", "day")) == metadata


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "id,text,text\n1,a,b\n", "names 'text' twice in its head"),
        ("a.csv", "id,text,year,year\n1,a,1,2\n", "names 'year' twice in its head"),
        ("a.csv", "ID,Text\n1,a\n", "It begins 'ID,Text'"),
        ("a.csv", "My export\n\nid,text\n1,a\n", "It begins 'My export'"),
        ("a.csv", 'id,text\n1,"a \\"b\\" c"\n', "a quotation mark within quotes is written twice"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("a.jsonl", '{"text": "a", "text": "b"}', "it names 'text' twice"),
        ("a.jsonl", '{"text": "a", "year": NaN}', "it holds NaN or Infinity"),
        ("a.jsonl", '{"text": "a", "year": 1e400}', "1e400, which is too large"),
        ("a.jsonl", '{"text": "a\\ud800b"}', r"half of a surrogate pair, \ud800"),
        ("a.jsonl", '{"text": "a"},\n', "is there a comma too many?"),
        ("a.jsonl", "{'text': 'a'}\n", "stand in double quotes"),
        ("a.jsonl", '[{"text": "a"}]', "or name the file .json"),
        ("a.jsonl", '{"text": 5}', "'text' is the number 5, and no text"),
        ("a.jsonl", '{"text": ["a"]}', "'text' is a list, and no text"),
        ("a.jsonl", '{"content": "a"}', "it has 'content'"),
        ("a.json", '{"text": "a"}\n{"text": "b"}', "lines of their own in a file .jsonl"),
        ("a.json", '[{"text": "a"}, // more\n]', "JSON has no comments"),
        ("a.json", "[" * 200_000, "nested too deeply"),
        ("a.json", '["a"]', "row 1 is no JSON object but a text"),
        ("a.txt", b"PK\x03\x04\x14\x00", "is a ZIP archive, as .docx"),
        ("a.md", b"%PDF-1.7\n", "is a PDF, by how it begins: name it .pdf"),
        ("a.txt", b"{\\rtf1 hello}", "is RTF"),
        ("a.csv", b"\x1f\x8b\x08", "compressed with gzip"),
        ("a.docx", b"PK\x03\x04", "is of no known type"),
        ("a.epub", b"PK\x03\x04", "is of no known type"),
        ("a.txt", " \n", "holds no text"),
        ("a.pdf", b"hello", "is no PDF that can be read"),
    ],
)
def test_neighbours_are_refused_with_their_cause(write: Write, name: str, content: str | bytes, words: str) -> None:
    assert words in refused(write(name, content))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_one_line_in_another_encoding_costs_no_other_row(write: Write, name: str) -> None:
    rows = ["fine", "caf\udce9", "fine too"]
    written = ["text", *rows] if name == "a.csv" else [f'{{"text": "{row}"}}' for row in rows]
    file = write(name, "\n".join(written).encode("utf-8", "surrogateescape"))
    reading = Reading(DocumentFields(), skip_bad=True)
    assert [one.text for one in reading.documents([file])] == ["fine", "fine too"]
    assert [one.message.partition(":")[2] for one in reading.bad] == [
        " its byte 0xe9 is of another encoding: name the file's with --encoding"
    ]


def test_metadata_in_an_object_of_their_own_are_metadata(write: Write) -> None:
    (one,) = passages(write("a.jsonl", '{"text": "a", "metadata": {"year": 2024, "lang": "en"}, "lang": "de"}'))
    assert one.metadata == {"source": "a.jsonl", "year": 2024, "lang": "de"}


def test_an_integer_that_no_index_holds_is_no_metadata(write: Write) -> None:
    (one,) = passages(write("a.jsonl", '{"text": "a", "big": 123456789012345678901, "year": 1}'))
    assert one.metadata == {"source": "a.jsonl", "year": 1}


@pytest.mark.parametrize(
    "character",
    ["e\u0301", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪", "\u1112\u1161\u11ab", "เก้", "नि"],
    ids=["accent", "family", "flag", "hangul", "thai", "hindi"],
)
def test_no_character_is_cut_between_passages(write: Write, character: str) -> None:
    for one in texts(write("a.txt", character * 50), max_chars=20):
        assert one.replace(character, "") == ""


@pytest.mark.parametrize("stop", ["。", "।", "؟", "۔", "။"])
def test_sentences_of_every_script_end_where_they_end(write: Write, stop: str) -> None:
    space = "" if stop in "。။" else " "
    found = texts(write("a.txt", space.join(f"क{'य' * 20}{stop}" for _ in range(9))), max_chars=60)
    assert all(one.endswith(stop) for one in found)


def test_a_page_that_declares_what_it_is_not_is_read_by_what_its_reader_says(write: Write) -> None:
    page = write("a.html", "<meta charset=utf-8><p>café</p>".encode("cp1252"))
    assert "is not UTF-8" in refused(page)
    assert texts(page, encoding="cp1252") == ["café"]


def test_what_is_no_plain_file_is_told_as_that(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write("folder/a.txt", "text")
    write("elsewhere/b.txt", "text")
    os.mkfifo(folder / "pipe.txt")
    (folder / "link.txt").symlink_to("nowhere")
    (folder / "up").symlink_to(tmp_path / "elsewhere")
    (folder / "self").symlink_to(folder)
    reading = Reading(DocumentFields())
    assert len(list(reading.documents([folder]))) == 1
    assert reading.left_out == [
        "link.txt (no plain file)",
        "pipe.txt (no plain file)",
        "self (a link to a folder)",
        "up (a link to a folder)",
    ]
    assert "is no plain file: give one, or a folder" in refused(folder / "pipe.txt")
    assert "a link to what is not there" in refused(folder / "link.txt")


@pytest.mark.parametrize(
    ("page", "read"),
    [
        ("10<sup>6</sup> km, 5 m<sup>2</sup>, 2024<sup><a>3</a></sup>", "10^6 km, 5 m^2, 2024^3"),
        ("the 1<sup>st</sup>, H<sub>2</sub>O, log<sub>2</sub>8, 101<sub>2</sub>", "the 1st, H2O, log2 8, 101_2"),
        ("Price <del>10</del><ins>12</ins>, <s>5</s>4", "Price 12, 4"),
        (
            "<table><tr><td rowspan=2>Basic<td>Jan<td>5</tr><tr><td>Feb<td rowspan=2>6</tr><tr><td>Pro<td>Mar</table>",
            "Basic | Jan | 5\nBasic | Feb | 6\nPro | Mar | 6",
        ),
        ("<table><tr><td rowspan=2 colspan=2>A<td>1</tr><tr><td>2</tr></table>", "A | 1\nA | 2"),
    ],
)
def test_numbers_of_a_page_stay_apart_and_cells_in_their_columns(write: Write, page: str, read: str) -> None:
    assert texts(write("a.html", page)) == [read]


def test_latin_1_is_read_as_browsers_read_it() -> None:
    assert [known_encoding(one) for one in ("latin-1", "ISO-8859-1", "ascii")] == ["cp1252", "cp1252", "ascii"]
