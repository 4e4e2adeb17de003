"""Manifests as files: what reads, and how what does not is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.documents.document import parse_documents
from guideway.catalogue.documents.manifest_files import Source, read_manifests, upload
from guideway.catalogue.documents.yaml_text import as_yaml
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint, Guidance
from guideway.schemas.output import Choice
from guideway.training.runs.task import read_task

YAML = """
kind: endpoint/v1
namespace: team
name: mood
model_size: small
instruction: How does it sound?
guidance: [team/tone]
output: {type: choice, labels: [good, bad]}
---
kind: guidance/v1
namespace: team
name: tone
form: text_prompt
text: Be kind.
"""
TOML = """
kind = "endpoint/v1"
namespace = "team"
name = "again"
model_size = "small"
output = { type = "boolean", spelling = "yes/no" }
"""


def values_of(file: Path) -> list[Any]:
    documents, faults = parse_documents(file)
    assert faults == []
    return [document.value for document in documents]


def test_yaml_with_several_documents_and_toml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.toml").write_text(TOML)
    mood, tone, again = (source.manifest for source in read_manifests(tmp_path))
    assert isinstance(mood, Endpoint)
    assert mood.output == Choice(labels=["good", "bad"])
    assert isinstance(tone, Guidance)
    assert again.name == "again"


def test_a_fault_quotes_the_beginning_and_the_end_of_a_long_word() -> None:
    mood = Endpoint(namespace="team", name="mood", model_size="small", output=Choice(labels=["good", "bad"]))
    fault = Source(Path(), mood).fault(f"no property '{'x' * 5000}': declare it")
    assert fault.message == f"no property '{'x' * 59}…{'x' * 18}': declare it"


def test_an_artefact_is_named_by_its_folder_and_not_by_a_digest(tmp_path: Path) -> None:
    """Somebody else's digest can be read in the catalogue; their artefact is theirs to share."""
    guidance = Guidance(
        namespace="team", name="x", form="lora", artefact="sha256:" + "0" * 64, model_fingerprint="sha256:" + "0" * 64
    )
    with pytest.raises(Refusal, match="folder, not a digest"):
        upload(tmp_path / "a.yaml", guidance, ArtefactStore(str(tmp_path / "store")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML.replace("labels", "lables"), "unknown field `lables`"),
        (YAML.replace("model_size: small", ""), "missing required field `model_size`"),
        (YAML.replace("team", "Team"), "namespace: 'Team' does not fit: did you mean team. write 1 to 63 of a-z"),
        (
            YAML.replace("endpoint/v1", "endpoint/v7"),
            "invalid value 'endpoint/v7' of `kind`: did you mean endpoint/v1",
        ),
        (YAML.replace("name: tone", "name: tone\nartefact: x"), "no `artefact`"),
        (YAML.replace("namespace: team", "namespace: infer", 1), "reserved"),
        (
            YAML.replace("model_size: small", "model_size: small\ndeadline_s: 1:30"),
            r"deadline_s: it must be a number or null, and is \"1:30\"",
        ),
        (
            YAML.replace("[good, bad]", "[1, 2]"),
            r"a.yaml:8: endpoint /team/mood: output.labels\[0\]: it must be text, and is 1 .write it in quotes",
        ),
        (
            YAML.replace("[good, bad]", "[true, false]"),
            r"output.labels\[0\]: it must be text, and is true .write it in quotes",
        ),
        (YAML + "\n---\n" + YAML, "is in"),
        ("{", "a.yaml"),
        ("", "holds no manifest"),
        ("!!python/object/apply:os.system [ls]", "a.yaml"),
    ],
)
def test_a_wrong_manifest_is_refused_by_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(Refusal, match=message) as caught:
        read_manifests(tmp_path)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert str(tmp_path) in caught.value.message


def lines(*written: str) -> str:
    return "\n".join(written) + "\n"


LAUGHS = lines("a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)))
MERGES = lines("a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LAUGHS, "has more than 200000 values"),
        (MERGES, "has more than 200000 values"),
        ("&a [*a]", "a.yaml:1: an alias contains itself: write it out"),
        ("a: &a {b: *a}", "an alias contains itself"),
        ("[" * 5000, "nested deeper than 100 levels"),
        ("[" * 150 + "]" * 150, "nested deeper than 100 levels"),
        ("[" + "1," * 201_000 + "]", "holds more than 200000 values"),
        (YAML.replace("model_size: small", "model_size: small\ndeadline_s: .inf"), "deadline_s: inf is no number"),
        (YAML.replace("model_size: small", "model_size: small\ndeadline_s: .nan"), "deadline_s: nan is no number"),
        (YAML.replace("model_size: small", "model_size: small\ndescription: !!timestamp 2024-01-01"), "is a date"),
        (
            YAML.replace("model_size: small", "model_size: small\ntrue: 1"),
            "the name true is no text: write it in quotes",
        ),
        (YAML.replace("model_size: small", "model_size: small\n2024: 1"), "the name 2024 is no text"),
        (YAML.replace("model_size: small", "model_size: small\nnull: 1"), "the name null is no text"),
        (YAML.replace("model_size: small", "model_size: small\nmodel_size: large"), "'model_size' is written twice"),
        (YAML.replace("good", '"\\uD800"'), r"output.labels\[0\]: the text holds half of a character"),
        (YAML.replace("good", "!!binary eA=="), "is a bytes"),
        (f"kind: {'9' * 5000}", "4300 digits"),
        (f"kind: {'9' * 400}", "kind: the number is too large"),
        ("!!bool x", "no YAML: KeyError"),
        ("!!timestamp x", "no YAML: AttributeError"),
        ("!!int ''", "invalid literal for int"),
        ("{[a]: b}", "unhashable key"),
        (b"\xff\xfea\x00", "it is not UTF-8 but UTF-16"),
        (b"\x7fELF\xff", "it is not UTF-8 but binary"),
        (b"kind: a\x00b", "a.yaml:1: it is no YAML: it has the character U.0000: remove it"),
        (b"#" * (16 * 2**20 + 1), "larger than"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_whatever_a_file_holds_is_read_or_refused_by_its_name(tmp_path: Path, data: str | bytes, message: str) -> None:
    """Aliases that multiply or recurse, numbers that JSON does not have, bytes that are no text."""
    (tmp_path / "a.yaml").write_bytes(data.encode() if isinstance(data, str) else data)
    for reader in (read_manifests, read_task):
        with pytest.raises(Refusal, match=message) as caught:
            reader(tmp_path / "a.yaml")
        assert caught.value.code is FailureCode.INVALID_MANIFEST
        assert str(tmp_path / "a.yaml") in caught.value.message
        assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML + "deadline_s = inf", "deadline_s: inf is no number"),
        (TOML + "description = 2024-01-01", "description: .* is a date"),
        (TOML + f"x = {'[' * 5000}", "a.toml"),
        ("kind =", "a.toml"),
    ],
)
def test_toml_is_held_to_the_same(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(Refusal, match=message) as caught:
        read_manifests(tmp_path)
    assert caught.value.code is FailureCode.INVALID_MANIFEST


def test_a_folder_that_is_called_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(Refusal, match="Is a directory"):
        read_manifests(tmp_path)


def test_aliases_as_people_use_them_are_read(tmp_path: Path) -> None:
    fields = "input: {fields: {text: &field {max_chars: 9}, more: {<<: *field, required: false}}}"
    (tmp_path / "a.yaml").write_text(
        YAML.replace("guidance: [team/tone]", f"guidance: &names [team/tone]\nrequest_guidance: *names\n{fields}")
    )
    mood, _ = (source.manifest for source in read_manifests(tmp_path))
    assert isinstance(mood, Endpoint)
    assert mood.guidance == mood.request_guidance
    assert mood.input.fields["more"] == Field(max_chars=9, required=False)


@given(st.binary(max_size=200) | st.text(alphabet="[]{}&*:!-<>\n ab1.#\"'|%@?,~\\", max_size=60))
def test_no_bytes_end_in_anything_but_values_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes | str
) -> None:
    for name in ("a.yaml", "a.toml"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        documents, faults = parse_documents(path)
        assert all(fault.message and fault.file for fault in faults)
        for document in documents:
            assert msgspec.json.decode(msgspec.json.encode(document.value)) == document.value


NORWAY = """
a: [no, off, y, on, Yes, N, 2024-01-01, 12:30:45, 1:30, 1_000, 0b11, =, 190:20:30, 08, 1e3, 0o17, 0x1F, -0, +7, .5]
no: on
b: [true, False, ~, null, "null", '1', 1.0, 010]
"""


def test_what_has_no_quotes_is_read_as_yaml_1_2_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\ufeff" + NORWAY, "utf-8")
    (document,) = values_of(tmp_path / "a.yaml")
    texts = ["no", "off", "y", "on", "Yes", "N", "2024-01-01", "12:30:45", "1:30", "1_000", "0b11", "=", "190:20:30"]
    assert document == {
        "a": [*texts, 8, 1000.0, 15, 31, 0, 7, 0.5],
        "no": "on",
        "b": [True, False, None, None, "null", "1", 1.0, 10],
    }
    assert [type(one) for one in document["b"]] == [bool, bool, type(None), type(None), str, str, float, int]


@pytest.mark.parametrize("text", ["a: 1\na: 1", "b: {a: 1, 'a': 2}", "- {x: {y: 1, z: 2, y: 3}}"])
def test_a_name_that_is_written_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    _, (fault,) = parse_documents(tmp_path / "a.yaml")
    assert "is written twice: keep one" in fault.message
    assert fault.line == len(text.splitlines())


def test_a_merge_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {x: 1, y: 2}\nmore: {<<: *base, y: 3}")
    assert values_of(tmp_path / "a.yaml")[0]["more"] == {"x": 1, "y": 3}


def test_toml_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("\ufeff" + TOML, "utf-8")
    assert len(read_manifests(tmp_path)) == 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["no", "1e3", "0o17", "1:30", "2024-01-01", "~", "", "=", "<<", "1_000", ".inf", "010"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@example({"\x85": "a\u2028b", "\ufeff": "\u2029"})
def test_what_is_shown_as_yaml_is_read_again_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    file.write_bytes(as_yaml({"value": value}).encode("utf-8", "surrogatepass"))
    assert values_of(file) == [{"value": value}]
    assert yaml.safe_load(as_yaml({"value": value})) == {"value": value}, "by programs that read YAML 1.1 too"
