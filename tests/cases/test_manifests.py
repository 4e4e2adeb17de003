"""Manifests as people write them: what can never work, or would be read as something else, is refused by `apply`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.check import faults
from guideway.producers.checks.doubts import doubtful
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.output import Choice, Json
from guideway.schemas.wire import MANIFEST

HERE: Final = Path(__file__).parent
DIGEST: Final = "sha256:" + "0" * 64
BEGIN: Final = "kind: endpoint/v1\nnamespace: t\nname: a\nmodel_size: small\n"


def catalogue() -> Catalogue:
    made = Catalogue()
    embedding = {"source": "x", "fingerprint": DIGEST, "dimension": 3}
    of = {"kind": "set/v1", "namespace": "t", "artefact": DIGEST, "embedding": embedding, "passages": 2}
    years: Any = {**of, "name": "x-year-csv", "metadata": ["open", "source", "year"]}
    branches: Any = {**of, "name": "x-same-text-jsonl", "metadata": ["branch", "source"]}
    for manifest in (
        Model(namespace="public", name="small", source="x", max_context_tokens=1024),
        *(MANIFEST.decode(msgspec.json.encode(one)) for one in (years, branches)),
    ):
        made.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(1), MANIFEST.encode(manifest))
    return made


def sources(place: Path | str, tmp_path: Path | None = None) -> list[Source]:
    if isinstance(place, str):
        assert tmp_path is not None
        (tmp_path / "a.yaml").write_text(BEGIN + place, "utf-8")
        place = tmp_path / "a.yaml"
    return read_manifests(place)


def refused(place: Path | str, tmp_path: Path | None = None) -> str:
    """All that is said of it; that it is refused, with its file."""
    try:
        found = sources(place, tmp_path)
    except Faulty as faulty:
        return str(faulty)
    told = [str(fault) for fault in faults(found, catalogue())]
    assert told
    assert all(re.match(r".+\.yaml:\d+: ", one) for one in told)
    return "\n".join(told)


def taken(place: Path | str, tmp_path: Path | None = None) -> list[Endpoint]:
    found = sources(place, tmp_path)
    assert [str(fault) for fault in faults(found, catalogue())] == []
    return [one.manifest for one in found if isinstance(one.manifest, Endpoint)]


def doubts(place: Path | str, tmp_path: Path | None = None) -> str:
    return "\n".join(str(one) for one in doubtful(sources(place, tmp_path)))


# The manifests that were brought --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("01_yaml_norway/c_labels_numbers.yaml", "output.labels[0]: it must be text, and is 1 (write it in quotes)"),
        ("01_yaml_norway/d_enum_typed.yaml", "inf is no number that JSON has"),
        ("01_yaml_norway/e_deadline.yaml", "deadline_s: it must be a number or null"),
        ("01_yaml_norway/f_key_twice.yaml", "'output' is written twice"),
        ("01_yaml_norway/i_const_null_prop.yaml", "the name null is no text: write it in quotes"),
        ("02_template_without_field/a_default_template.yaml", "names 'text', which is no field"),
        ("02_template_without_field/b_typo.yaml", "did you mean 'question'?"),
        ("02_template_without_field/c_no_expression.yaml", "uses no field, so that all events become the same text"),
        ("02_template_without_field/d_fields_only_text_field_missing.yaml", "there is no field `text`"),
        ("10_x_guidance/endpoints.yaml", "'x-guidance', which is no part of JSON Schema"),
        ("15_labels/endpoints.yaml", "are the same letters: keep one"),
        ("26_schema_that_says_nothing/typo.yaml", "did you mean 'properties'?"),
        ("26_schema_that_says_nothing/wrapper.yaml", "as in OpenAI's response_format"),
        ("28_field_default/default_wrong_type.yaml", "is of type integer, its default is 'five'"),
        ("29_never_possible/lookahead.yaml", "it cannot look around"),
        ("29_never_possible/max_tokens_over_context.yaml", "has 1024 tokens for the text and its answer together"),
        ("29_never_possible/slashes.yaml", "stands between slashes"),
        ("29_never_possible/unbalanced.yaml", "unclosed group"),
        ("33_filter_types/eps.yaml", "has metadata 'yaer'; did you mean 'year'?"),
    ],
)
def test_what_was_brought_and_cannot_work_is_refused(file: str, words: str) -> None:
    assert words in refused(HERE / file)


def test_what_looks_like_a_boolean_or_a_date_stays_text() -> None:
    outputs = [
        taken(HERE / "01_yaml_norway" / file)[0].output
        for file in ("a_property_no.yaml", "b_labels_yes_no.yaml", "g_enum_no_only.yaml")
    ]
    invoice, yes_no, country = outputs
    assert isinstance(invoice, Json)
    assert isinstance(country, Json)
    assert [*invoice.schema["properties"]] == ["no", "date"]
    assert yes_no == Choice(labels=["yes", "no"])
    assert country.schema["properties"]["country"]["enum"] == ["de", "no", "se"]
    (named,) = taken(HERE / "01_yaml_norway" / "h_name_no.yaml")
    assert named.address == "/no/on"


def test_json_is_read_as_programs_write_it(tmp_path: Path) -> None:
    """With escapes for all but ASCII; what is outside of 16 bits takes two of them."""
    written = {"type": "choice", "labels": ["\U0001f600", "caf\u00e9", "\U0001f600\U0001f680"]}
    assert r"\ud83d\ude00" in json.dumps(written)
    [endpoint] = taken(f"output: {json.dumps(written)}\n", tmp_path)
    assert endpoint.output == Choice(labels=written["labels"])  # type: ignore[arg-type]
    assert "half of a character" in refused(r'output: {type: choice, labels: ["\ude00\ud83d"]}', tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_manifest() -> None:
    assert len(taken(HERE / "04_bom" / "d_manifest.toml")) == 1
    assert len(taken(HERE / "04_bom" / "e_manifest.yaml")) == 1


def test_schemas_that_cannot_be_compiled_are_refused_and_all_others_taken() -> None:
    pytest.importorskip("llguidance")
    told = refused(HERE / "12_schemas_apply" / "endpoints.yaml")
    assert set(re.findall(r"endpoint /t/js-([a-z-]+)", told)) == {
        *("set-str", "map-literal", "minprops", "ifthen", "not", "wordb", "remote-ref", "not-a-schema", "empty"),
        *("min-gt-max", "xg-sep", "xg-lenient", "xg-ws", "xg-bad"),
    }
    assert "output.schema.properties.tags has 'uniqueItems'" in told
    assert "nullable" in doubts(HERE / "12_schemas_apply" / "endpoints.yaml")


def test_the_default_of_a_required_field_is_doubted() -> None:
    assert "its default is never used: add `required: false`" in doubts(
        HERE / "28_field_default" / "default_required.yaml"
    )


def test_a_field_in_the_instruction_is_doubted(tmp_path: Path) -> None:
    told = doubts("instruction: 'Classify {{ text }}, as {name: x}.'\noutput: {type: boolean}\n", tmp_path)
    assert told.count("instruction has '{{ text }}', which stays as it is: fields go into input.template") == 1
    assert "name" not in told


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ('{type: choice, labels: ["a\\u200b", b, a]}', "has 'a\\u200b' and 'a', which people hardly tell apart"),
        ("{type: choice, labels: [yes, no, Yes]}", "has 'yes' and 'Yes', which people hardly tell apart"),
        ("{type: choice, labels: [a, 'b ']}", "output.labels has 'b ', which begins or ends with white space"),
        ("{type: boolean, probabilities: true, min_confidence: 0.4}", "output.min_confidence 0.4 is never missed"),
        ("{type: choice, labels: [a, b, c], probabilities: true, min_confidence: 0.4}", ""),
        ("{type: boolean}\ngeneration: {samples: 3}", "generation.samples is 3 at temperature 0"),
        ("{type: boolean}\ngeneration: {samples: 3, temperature: 1}", ""),
        ("{type: text}\ngeneration: {stop: ['\\n']}", "generation.stop has \\n, a backslash and an n, which is no new"),
        ("{type: text}\ninstruction: Answer.\\nBe brief.", "instruction has \\n, a backslash and an n"),
        ('{type: text}\ninstruction: "Answer.\\n What is \\\\nabla?"\ngeneration: {stop: ["\\n"]}', ""),
        (
            "{type: json, schema: {type: object, properties: {}}}\ngeneration: {stop: ['}']}",
            "has '}', which each result",
        ),
    ],
)
def test_what_changes_nothing_is_doubted(output: str, words: str, tmp_path: Path) -> None:
    told = doubts(f"output: {output}\n", tmp_path)
    assert words in told if words else not told


# Their neighbours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("output: {type: choice, labels: [~, a]}", "is null (write it in quotes)"),
        ("output: {type: choice, labels: [1.10, 1.9]}", "is 1.1 (write it in quotes)"),
        ("output: {type: choice, labels: [true, false]}", "is true (write it in quotes)"),
        ("output: {type: json, schema: {type: object, properties: {~: {type: string}}}}", "the name null is no text"),
        ("output: {type: boolean, type: text}", "'type' is written twice"),
        ("deadline_s: 12:30:45\noutput: {type: boolean}", "it must be a number or null"),
        ("generation: {max_tokens: 1_000}\noutput: {type: text}", "it must be an integer"),
        ("instruction: #1 question\noutput: {type: text}", "is null (write it in quotes)"),
        ("instruction: Answer: yes or no\noutput: {type: text}", "a text that has a colon in quotes"),
        ('output: {type: regex, pattern: "\\d"}', "write a backslash twice, or put the text in single quotes"),
        ("output: {type: text}\n...\n{}\n{}", "write a line `---` between two documents"),
        ("output: {type: choice, labels: [<<, b]}", "put `<<` in quotes"),
        ("output:\n\ttype: boolean", "indent with spaces, not with tabs"),
        ("output: !!python/object:os.system {}", "write it without the tag"),
        (
            "input: {template: {text}}\noutput: {type: text}",
            'it must be text, and is {"text": null} (write it in quotes)',
        ),
        (
            "input: {fields: {first-name: {}}, text_field: first-name, template: '{first-name}'}\noutput: {type: text}",
            'write it in double quotes, {"first-name"}',
        ),
        ("input: {template: '{{text}}'}\noutput: {type: text}", "uses no field"),
        ("input: {template: '{text'}\noutput: {type: text}", "single '{'"),
        ("input: {template: '{txet}'}\noutput: {type: text}", "did you mean 'text'?"),
        ("input: {template: '{lower(text)}'}\noutput: {type: text}", "Unknown function: lower()"),
        ("input: {template: '{join(text)}'}\noutput: {type: text}", "Expected 2 arguments for function join()"),
        ("output: {type: choice, labels: !!set {a, b}}", "write a list"),
        ("output: {type: regex, pattern: '(?<!a)b'}", "it cannot look around"),
        ("output: {type: regex, pattern: '[a-'}", "output.pattern"),
        ("output: {type: regex, pattern: '(a)\\1'}", "output.pattern"),
        ("output: {type: json, schema: {type: integr}}", "did you mean 'integer'?"),
        ("output: {type: json, schema: {enum: []}}", "output.schema"),
        ("output: {type: json, schema: {}}", "says nothing"),
        ("output: {type: json, schema: {type: string, maxlength: 5}}", "did you mean 'maxLength'?"),
        ("output: {type: choice, labels: [a, b]}\ntargets: [nowhere]", "there is no endpoint /t/nowhere"),
        ("output: {type: boolean}\nguidance: [t/none]", "there is no guidance t/none"),
        ("output: {type: bool}", "did you mean boolean?"),
        ("output: {type: choice, labels: [a, a]}", "twice"),
        ("retrieval: {sets: [t/x-yaer-csv]}\noutput: {type: text}", "there is no retrieval set t/x-yaer-csv"),
    ],
)
def test_neighbours_are_refused_with_their_cause(written: str, words: str, tmp_path: Path) -> None:
    if "pattern" in written or "enum: []" in written:
        pytest.importorskip("llguidance")
    assert words in refused(written, tmp_path)


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("[no, on, off, y, n]", ["no", "on", "off", "y", "n"]),
        ("[2024-01-01, 12:30, 1_000]", ["2024-01-01", "12:30", "1_000"]),
        ("[!!str 1, '2']", ["1", "2"]),
        ("&l [“yes”, no way]", ["“yes”", "no way"]),
    ],
)
def test_neighbours_are_read_as_they_are_written(written: str, labels: list[str], tmp_path: Path) -> None:
    (one,) = taken(f"output: {{type: choice, labels: {written}}}", tmp_path)
    assert one.output == Choice(labels=labels)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_lines_of_a_manifest_may_end_as_they_like(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes((BEGIN + "output: {type: boolean}\n").replace("\n", end).encode())
    assert len(taken(tmp_path)) == 1


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("01234", "output.schema.enum[1]: 01234 is read as the number 1234: put it in quotes if it is text"),
        ("1.10", "1.10 is read as the number 1.1"),
        ("12e3", "12e3 is read as the number 12000.0"),
        ("0x1F", "0x1F is read as the number 31"),
        ("+49", "+49 is read as the number 49"),
    ],
)
def test_a_number_that_may_be_meant_as_text_is_doubted(written: str, words: str, tmp_path: Path) -> None:
    assert words in doubts(f"output: {{type: json, schema: {{enum: [a, {written}]}}}}", tmp_path)


@pytest.mark.parametrize("written", ["1234", "'01234'", "-1.5", "0", "true", "1.0"])
def test_a_number_as_json_writes_it_is_not_doubted(written: str, tmp_path: Path) -> None:
    assert "is read as" not in doubts(f"output: {{type: json, schema: {{enum: [a, {written}]}}}}", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("output:\u00a0{type: boolean}", "it holds the character U+00A0"),
        ("output\uff1a {type: boolean}", "it holds the character U+FF1A"),
    ],
)
def test_what_looks_like_a_space_or_a_colon_is_named(content: str, words: str, tmp_path: Path) -> None:
    assert words in refused(content, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-16"])
def test_a_manifest_in_another_encoding_is_refused_by_its_name(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes((BEGIN + "output: {type: boolean}").encode(encoding))
    with pytest.raises(Faulty, match="UTF-16"):
        read_manifests(tmp_path / "a.yaml")
