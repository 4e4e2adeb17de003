"""What is on the wire stays as it is: golden files decode and encode again to the same bytes; all else is refused.

A golden file is laid out for people; on the wire it is the same JSON in the same order without the white space.
Change one only together with the version in its `schema` or `kind`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from guideway.schemas.manifests import Manifest
from guideway.schemas.output import OutputRule
from guideway.schemas.reply import Reply
from guideway.schemas.wire import CANCELLATION, CATALOGUE_ENTRY, MANIFEST, PARTIAL, REPLY, REQUEST, Codec, Undecodable

GOLDEN = {path.name.removesuffix(".json"): path for path in sorted(Path(__file__).parent.joinpath("golden").iterdir())}
OUTPUT: Codec[OutputRule] = Codec(OutputRule)
CODECS: dict[str, Codec[Any]] = {
    "request": REQUEST,
    "cancellation": CANCELLATION,
    "reply": REPLY,
    "partial": PARTIAL,
    "manifest": MANIFEST,
    "entry": CATALOGUE_ENTRY,
    "output": OUTPUT,
}

FieldPath = tuple[str | int, ...]

each_golden = pytest.mark.parametrize("name", GOLDEN)
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def codec_of(name: str) -> Codec[Any]:
    return CODECS[name.partition(".")[0]]


def document_of(name: str) -> Any:
    return json.loads(GOLDEN[name].read_text(encoding="utf-8"))


def wire_form(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def places(document: Any, at: FieldPath = ()) -> Iterator[FieldPath]:
    """Every place in the document whose content is laid down, the whole first."""
    # A result's value, a field's default and a JSON Schema are anything.
    # Labels are the endpoint's own.
    if at and (at[-1] in {"value", "default", "probabilities"} or (at[-1] == "schema" and isinstance(document, dict))):
        return
    yield at
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, content in inside:
        yield from places(content, (*at, name))


def found_at(document: Any, place: FieldPath) -> Any:
    for step in place:
        document = document[step]
    return document


def changed(document: Any, place: FieldPath, content: Any) -> bytes:
    document = copy.deepcopy(document)
    found_at(document, place[:-1])[place[-1]] = content
    return wire_form(document)


@each_golden
def test_decodes_and_encodes_to_the_same_bytes(name: str) -> None:
    data = wire_form(document_of(name))
    assert codec_of(name).encode(codec_of(name).decode(data)) == data


def test_every_kind_has_a_golden_file() -> None:
    tags = {
        document.get("schema") or document.get("kind")
        for document in map(document_of, GOLDEN)
        if "type" not in document
    }
    kinds = {msgspec.inspect.type_info(kind).tag for kind in (*get_args(Reply), *get_args(Manifest))}  # type: ignore[attr-defined]
    assert tags == kinds | {"guideway.request.v1", "guideway.cancellation.v1", "guideway.partial.v1", "deleted/v1"}
    rules = {document["type"] for document in map(document_of, GOLDEN) if "type" in document}
    assert rules == {msgspec.inspect.type_info(rule).tag for rule in get_args(OutputRule)}  # type: ignore[attr-defined]
    forms = {document_of(name)["form"] for name in GOLDEN if ".guidance." in name}
    assert forms == {"text_prompt", "soft_prompt", "prefix", "lora", "ia3", "inserted_layer"}


@each_golden
def test_an_unknown_field_is_refused_wherever_it_stands(name: str) -> None:
    document = document_of(name)
    for place in places(document):
        # The names under `fields` are an endpoint's own; what stands under a name is not.
        if isinstance(found_at(document, place), dict):
            with pytest.raises(Undecodable):
                codec_of(name).decode(changed(document, (*place, "surprise"), 1))


@each_golden
def test_another_type_is_refused_wherever_it_stands(name: str) -> None:
    document = document_of(name)
    for place in places(document):
        wrong: list[Any] = [{"surprise": 1}, [[1]]]
        if isinstance(found_at(document, place), str | list | dict):
            wrong.append(1.5)
        for content in wrong:
            with pytest.raises(Undecodable):
                codec_of(name).decode(changed(document, place, content) if place else wire_form(content))


@each_golden
def test_a_missing_field_is_refused_unless_it_has_a_default(name: str) -> None:
    document = document_of(name)
    for field in document:
        rest = {other: content for other, content in document.items() if other != field}
        try:
            decoded = codec_of(name).decode(wire_form(rest))
        except Undecodable:
            continue
        # msgspec takes the tag of a message that is not one of several as given.
        assert field not in {"kind", "id", "namespace", "name", "output"}
        assert field != "schema" or name.startswith(("request", "cancellation", "partial"))
        assert codec_of(name).encode(decoded) == wire_form(document if field == "schema" else rest)


@each_codec
@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"null",
        b"{",
        b"\xff",
        b'"\xff"',
        b'{"schema": "guideway.reply.failed.v2"}',
        b'{"kind": "endpoint/v2"}',
        b'{"type": "poem"}',
        b'{"schema": "\\ud800"}',
        b"[" * 100_000,
        b'{"schema":' * 100_000,
        b'{"type":"json","schema":' + b'{"a":' * 100_000,
        b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"namespace":"a","name":"b","kind":"endpoint/v1","output":' + b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data)[:40],
)
def test_what_is_no_message_is_undecodable(codec: Codec[Any], data: bytes | None) -> None:
    with pytest.raises(Undecodable) as caught:
        codec.decode(data)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "place", "content"),
    [
        ("reply.completed", ("samples", 0, "value"), "deep"),
        ("manifest.endpoint.full", ("output", "schema"), "deep"),
        ("manifest.endpoint.full", ("input", "fields", "country", "default"), "deep"),
        ("output.json", ("schema",), "deep"),
    ],
)
def test_deep_nesting_is_undecodable_where_anything_may_stand(name: str, place: FieldPath, content: str) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    data = changed(document_of(name), place, content).replace(b'"deep"', deep)
    with pytest.raises(Undecodable, match="nested too deeply"):
        codec_of(name).decode(data)


@pytest.mark.parametrize(
    ("name", "place", "content"),
    [
        ("request.full", ("schema",), "guideway.request.v2"),
        ("request.full", ("reply_to",), []),
        ("request.full", ("reply_to", 0, "partition"), -1),
        ("request.full", ("guidance", 0, "version"), 0),
        ("request.full", ("guidance", 0, "scale"), 8.5),
        ("request.full", ("guidance", 0, "scale"), -9),
        ("request.full", ("guidance", 0, "scale"), "half"),
        ("request.full", ("generation", "max_tokens"), 0),
        ("request.full", ("generation", "max_tokens"), 10**400),
        ("request.full", ("generation", "samples"), 17),
        ("request.full", ("generation", "temperature"), -0.1),
        ("request.full", ("generation", "top_p"), 0),
        ("request.full", ("generation", "stop"), [""]),
        ("request.full", ("parts", 0, "kind"), "system"),
        ("request.retrieval", ("retrieval", "sets"), []),
        ("request.retrieval", ("retrieval", "sets", 0, "version"), 0),
        ("request.retrieval", ("retrieval", "if_none"), "guess"),
        ("request.retrieval", ("retrieval", "passages"), 33),
        ("manifest.endpoint.full", ("retrieval", "sets", 0), "library/handbook*-1"),
        ("manifest.endpoint.full", ("retrieval", "sets", 0), "library/handbook*10"),
        ("manifest.endpoint.full", ("retrieval", "query"), "floor"),
        ("manifest.endpoint.full", ("retrieval", "filter", "lang"), "nothing"),
        ("manifest.endpoint.full", ("retrieval", "filter"), {"a.b": "country"}),
        ("manifest.endpoint.full", ("retrieval", "filter"), {"lang\n": "country"}),
        ("manifest.set", ("artefact",), "folder"),
        ("manifest.set", ("passages",), 0),
        ("manifest.alias", ("version",), 0),
        ("reply.failed", ("code",), "no_such_code"),
        ("reply.completed", ("samples", 0, "finish_reason"), "eos"),
        ("manifest.endpoint.least", ("name",), "Upper"),
        ("manifest.endpoint.least", ("name",), "dotted.name"),
        ("manifest.endpoint.least", ("name",), "a" * 64),
        ("manifest.endpoint.least", ("namespace",), "infer"),
        ("manifest.endpoint.least", ("lane",), "fast"),
        ("manifest.endpoint.full", ("guidance", 0), "library/topic-lora*9"),
        ("manifest.endpoint.full", ("guidance", 0), "library/topic-lora*-8.5"),
        ("manifest.endpoint.full", ("guidance", 0), "library/topic-lora*nan"),
        ("manifest.endpoint.full", ("guidance", 0), "library/topic-lora*1e3"),
        ("manifest.endpoint.full", ("guidance", 0), "library/topic-lora*0.5@2"),
        ("manifest.endpoint.full", ("request_guidance", 0), "library/topic-lora*0.5"),
        ("manifest.endpoint.full", ("input", "text_field"), "floor"),
        ("manifest.guidance.lora", ("artefact",), ""),
        ("manifest.guidance.text-prompt", ("artefact",), "folder"),
        ("manifest.model.least", ("namespace",), "team"),
        ("manifest.model.full", ("fingerprint",), "sha256:abc"),
        ("output.choice", ("labels",), []),
        ("output.word-labels", ("labels",), ["two words"]),
        ("output.number", ("decimals",), 10),
    ],
)
def test_values_out_of_bounds_are_refused(name: str, place: FieldPath, content: Any) -> None:
    with pytest.raises(Undecodable):
        codec_of(name).decode(changed(document_of(name), place, content))


@pytest.mark.parametrize(("default", "taken"), [(None, True), ("the default words", True), (7, False), (["a"], False)])
def test_the_default_of_the_field_with_the_words_is_text(default: Any, taken: bool) -> None:
    document = document_of("manifest.endpoint.least")
    document["input"] = {"fields": {"text": {"required": False, "default": default}}}
    document["output"] = {"type": "word_labels", "labels": ["NOUN"], "words_from": "text"}
    if taken:
        codec_of("manifest.endpoint.least").decode(wire_form(document))
    else:
        with pytest.raises(Undecodable, match=r"output\.words_from"):
            codec_of("manifest.endpoint.least").decode(wire_form(document))
