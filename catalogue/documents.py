"""What people write in YAML 1.2 or TOML, as values that JSON has too; and how large they are is known before."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml

from guideway.schemas.failures import FailureCode, Refusal

MAX_FILE_BYTES: Final = 16 * 2**20
MAX_VALUES: Final = 200_000
"""Of one document; what an alias stands for counts each time."""
MAX_DEPTH: Final = 100
_INTEGERS: Final = range(-(10**308), 10**308)
"""Those that are not beyond a float."""


def read_documents(path: Path) -> list[Any]:
    """The documents of a file, empty ones left out: one of TOML, any number of YAML.

    Raises Refusal(invalid_manifest) for what cannot be read, is too large, or has no like in JSON.
    """
    try:
        documents = list(_documents(path, _text(path)))
        for document in documents:
            for where, why in _strange(document, ""):
                raise ValueError(f"{where.lstrip('.') or 'the document'}: {why}")
    except OSError as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:
        # PyYAML has errors of its own, and any of Python's for a tag such as `!!bool x` or a date such as 2024-13-45.
        reason = " ".join(str(error).split()) if isinstance(error, _TELLING) else f"no {_language(path)}: {error!r}"
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{path}: {reason}") from None
    return documents


_TELLING: Final = (yaml.YAMLError, ValueError)


def _language(path: Path) -> str:
    return "TOML" if path.suffix == ".toml" else "YAML"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes: write several files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "binary or of another encoding"
        raise ValueError(f"it is not UTF-8 but {kind} (byte {error.start}): save it as UTF-8") from None


def _documents(path: Path, text: str) -> Iterator[Any]:
    if path.suffix == ".toml":
        yield tomllib.loads(text)
        return
    loader = _Loader(text)
    try:
        while loader.check_node():
            loader.composed = 0
            # A value is made of a node only once it is known how much it stands for.
            node = loader.get_node()
            _values(node, {}, 0)
            if (document := loader.construct_document(node)) is not None:
                yield document
    except RecursionError:
        raise _too_deep() from None
    finally:
        loader.dispose()


_CORE: Final = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
"""What is no text though it has no quotes, with its first characters (https://yaml.org/spec/1.2.2/#103-core-schema);
`<<` is of YAML 1.1 and means nothing else."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on`, a date and `1:30` are text; and a name that is written twice is refused."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # PyYAML keeps it on classes
    composed = 0
    """Nodes of the document at hand."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and name is not None:
                raise ValueError(f"{key.value!r} is written twice (line {key.start_mark.line + 1}): keep one of them")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.composed += 1
        if self.composed > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values: write less into one document")
        return super().compose_node(parent, index)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for anything but text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: [*found] for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def _as_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # YAML takes these for ends of lines, which are folded; in double quotes they are escaped.
    broken = any(one in text for one in "\x85\u2028\u2029\ufeff")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if broken else None)


_Dumper.add_representer(str, _as_text)


def as_yaml(value: Any) -> str:
    """The value for people, as `read_documents` reads it again."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _values(node: Any, known: dict[int, int | None], depth: int) -> int:
    """How many values a YAML node stands for, aliases written out; None in `known` marks those we are inside of."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError(
                f"an alias stands for what it is a part of (line {node.start_mark.line + 1}): write it out"
            )
        return count
    if depth > MAX_DEPTH:
        raise _too_deep()
    known[id(node)] = None
    inside = node.value if isinstance(node, yaml.CollectionNode) else ()
    children = [child for item in inside for child in (item if isinstance(item, tuple) else (item,))]
    count = 1 + sum(_values(child, known, depth + 1) for child in children)
    if count > MAX_VALUES:
        raise ValueError(
            f"it stands for more than {MAX_VALUES} values, aliases written out: write less into one document"
        )
    known[id(node)] = count
    return count


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_DEPTH} levels: flatten it")


def _strange(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(place, reason) of each value that does not come out of the catalogue as it goes in."""
    if isinstance(value, list | dict) and depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield where, f"the name {key!r} is no text: write it in quotes"
            yield from _strange(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strange(item, f"{where}[{number}]", depth + 1)
    elif why := _no_json(value):
        yield where, why


def _no_json(value: Any) -> str:
    match value:
        case None | bool():
            return ""
        case str():
            whole = value.encode("utf-8", "replace").decode() == value
            return "" if whole else "the text holds half of a character (a lone surrogate): leave it out"
        case int():
            return "" if value in _INTEGERS else "the number is too large: write it as text"
        case float():
            finite = math.isfinite(value)
            return "" if finite else f"{value} is no number that JSON has: write a number, or leave it out"
    return f"{value!r:.60} is a {type(value).__name__}: write it in quotes, as text"
