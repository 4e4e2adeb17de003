"""Reads and writes YAML by the core schema of YAML 1.2."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, ClassVar, Final

import yaml

MAX_VALUES: Final = 200_000
"""The most values of one document; each alias counts with all that it stands for."""


class Wrong(ValueError):
    """A fault of a document, with its line from 1 on."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


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
"""Values without quotes that are no text, with their first characters (https://yaml.org/spec/1.2.2/#103-core-schema);
`<<` is from YAML 1.1."""


class Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on`, a date and `1:30` are text. A name that occurs twice is refused."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # PyYAML keeps it on classes
    composed = 0
    """Nodes of the present document so far."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """The mapping of a node. Raises Wrong for a name that occurs twice."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and name is not None:
                raise Wrong(f"{key.value!r:.100} is written twice: keep one of them", key.start_mark.line + 1)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> int:
        """An integer: decimal, `0o` octal or `0x` hexadecimal."""
        text = str(self.construct_scalar(node))
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)

    def compose_scalar_node(self, anchor: Any) -> Any:
        """The next scalar. Characters that JSON writes as two escapes, such as an emoji, are one."""
        node = super().compose_scalar_node(anchor)
        if not node.value.isascii():
            # A half without the other stays, and is told with its place.
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node. Raises Wrong after `MAX_VALUES` of them."""
        self.composed += 1
        if self.composed > MAX_VALUES:
            raise Wrong(f"it holds more than {MAX_VALUES} values: write less into one document")
        return super().compose_node(parent, index)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


class Dumper(yaml.SafeDumper):
    """Puts a text in quotes if YAML 1.1 or 1.2 would read it as another type."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: [*found] for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        """True: a value that occurs twice is written twice."""
        return True


for _tag, _pattern, _first in _CORE:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def _as_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if not all(map(_is_plain, text)):
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_plain(one: str) -> bool:
    """Whether a terminal shows the character and YAML keeps it unchanged."""
    return one == "\n" or one.isprintable() or one in "\u200c\u200d" or unicodedata.category(one) == "Zs"


Dumper.add_representer(str, _as_text)


def as_yaml(value: Any) -> str:
    """The value as YAML for people, which `parse_documents` reads back. Long texts keep their lines; nothing is
    invisible."""
    text = str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))
    # All other texts are in double quotes, where characters can be escaped.
    return "".join(one if _is_plain(one) else f"\\U{ord(one):08x}" for one in text)
