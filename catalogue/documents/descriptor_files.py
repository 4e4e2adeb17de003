"""The descriptors of an endpoint's Protobuf message, put into its manifest before it is read as one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from guideway.catalogue.documents.document import Document
from guideway.catalogue.documents.faults import Fault, FieldPath
from guideway.catalogue.protobuf.descriptor_set import MAX_FILE_BYTES, embedded, of_manifest, read
from guideway.catalogue.protobuf.field_types import derived
from guideway.catalogue.protobuf.message_type import message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.schemas.input import EMBEDDED, InputRule

_COMPILE_S: Final = 60
_SAID_CHARS: Final = 300


def with_descriptors(path: Path, document: Document) -> list[Fault]:
    """Put what the document names of Protobuf into its value: descriptors, and input fields where none are written.

    path: of the document's file. Returns what is wrong; a document that says nothing of Protobuf stays as it is.
    """
    value = document.value
    rule = value.get("input") if isinstance(value, dict) and value.get("kind") == "endpoint/v1" else None
    if not isinstance(rule, dict) or rule.get("format") != "protobuf":
        return []
    named, message, answer = rule.get("descriptors"), rule.get("message"), value.get("output_message") or ""
    if not (isinstance(named, str) and isinstance(message, str) and isinstance(answer, str) and named and message):
        return []
    place: FieldPath = ("input", "descriptors")
    try:
        whole = of_manifest(named) if named.startswith(EMBEDDED) else _in_file(path.parent, named)
        place = ("input", "message")
        text = embedded(pruned(whole, [message, *([answer] if answer else [])]))
        kind = message_type(text, message)
        filled: dict[str, Any] = {**rule, "descriptors": text}
        if "fields" not in rule:
            template = rule.get("template", InputRule().template)
            fields = derived(kind.descriptor, template if isinstance(template, str) else "")
            if not fields:
                raise ValueError(f"message {message} has no field that a text can be made of: choose another")
            filled["fields"] = msgspec.to_builtins(fields)
            text_field = fields.get("text")
            filled.setdefault("text_field", "text" if text_field is not None and text_field.type == "string" else None)
    except OSError as error:
        return [document.fault(f"input.descriptors: {named[:200]} cannot be read: {error.strerror}", place)]
    except ValueError as error:
        return [document.fault(f"{'.'.join(map(str, place))}: {error}", place)]
    document.value = {**value, "input": filled}
    return []


def _in_file(folder: Path, named: str) -> FileDescriptorSet:
    file = folder / named
    if file.suffix == ".proto":
        return _compiled(folder, file)
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{named[:200]} is larger than {MAX_FILE_BYTES} bytes: make one of fewer files")
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(f"{named[:200]}: {error}") from None


def _compiled(folder: Path, file: Path) -> FileDescriptorSet:
    """The descriptors of a `.proto`, whose imports are found from its folder and those above, up to the manifest's."""
    if not file.is_file():
        raise FileNotFoundError(2, "No such file or directory")
    roots = [file.parent]
    while roots[-1] != folder and folder in roots[-1].parents:
        roots.append(roots[-1].parent)
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, "set")
        options = [*(f"-I{root}" for root in reversed(roots)), "--include_imports", f"--descriptor_set_out={out}"]
        by_hand = f"protoc -I{roots[-1]} --include_imports --descriptor_set_out=FILE {file}"
        if (compiler := _compiler()) is None:
            raise ValueError(
                f"{file.name} has to be compiled, and there is no protoc here: `pip install grpcio-tools`, or name the "
                f"FILE that `{by_hand}` makes"
            )
        try:
            done = subprocess.run(
                [*compiler, *options, str(file)], capture_output=True, text=True, check=False, timeout=_COMPILE_S
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{file.name} is not compiled after {_COMPILE_S} s: name the FILE of `{by_hand}`"
            ) from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:_SAID_CHARS]
            raise ValueError(f"protoc does not compile {file.name}: {said}")
        return read(out.read_bytes())


def _compiler() -> list[str] | None:
    if importlib.util.find_spec("grpc_tools") is not None:
        files = importlib.util.find_spec("grpc_tools")
        known = [f"-I{Path(one, '_proto')}" for one in (files.submodule_search_locations or [])] if files else []
        return [sys.executable, "-m", "grpc_tools.protoc", *known]
    found = shutil.which("protoc")
    return [found] if found is not None else None
