"""How short a text can be that a pattern or a schema allows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.schemas.json_schema.shortest import fewest_of_pattern, fewest_of_schema


@pytest.mark.parametrize(
    ("pattern", "fewest"),
    [
        ("", 0),
        ("abc", 3),
        ("a{1000000}", 10**6),
        ("(a{1000}){1000}", 10**6),
        ("((a{1000000}){1000000}){1000000}", 10**12),
        ("(?:ab|c|def){3}x?", 3),
        ("(|abc)", 0),
        ("a*b+c?d{2,}e{0,9}f*?", 3),
        (r"^\d{4}-\d{2}$", 7),
        (r"[^]\]]{2}[[:alpha:]_]{3}[a\]b]", 6),
        (r"\p{Greek}{2}\pL\x41\x{1F600}\u0041\.\|", 8),
        (r"\bword\B\b{start}", 4),
        ("(?i)(?P<year>[0-9]{4})(?<month>[0-9]{2})(?i:z)", 7),
        ("(?x) a  b  # many more characters", 0),
        ("a{2}{3}", 6),
        ("(unclosed", 0),
        ("closed)", 6),
    ],
)
def test_fewest_characters_of_a_pattern(pattern: str, fewest: int) -> None:
    assert fewest_of_pattern(pattern) == fewest


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({}, 0),
        ({"type": "integer"}, 0),
        ({"type": ["object", "null"]}, {}),
        ({"type": "boolean"}, True),
        ({"type": "string", "minLength": 3}, "abc"),
        ({"type": "string", "minLength": 3, "pattern": "^a{5}$"}, "aaaaa"),
        ({"enum": ["schön", "later"]}, "schön"),
        ({"const": {"a": [1, 2]}}, {"a": [1, 2]}),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 3}, [True, True, True]),
        ({"type": "array", "prefixItems": [{"const": "ab"}, {"const": "cd"}], "minItems": 1}, ["ab"]),
        ({"type": "array", "prefixItems": [{"const": "ab"}], "items": {"const": 123}, "minItems": 3}, ["ab", 123, 123]),
        ({"type": "array", "items": {"const": "long"}}, []),
        ({"type": "object", "properties": {"a": {"const": 12}, "b": {}}, "required": ["a"]}, {"a": 12}),
        ({"type": "object", "minProperties": 2}, {"": 0, "a": 0}),
        ({"anyOf": [{"const": "longer"}, {"const": "long"}]}, "long"),
        ({"allOf": [{"type": "string", "minLength": 2}, {"type": "string", "minLength": 4}]}, "abcd"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": "abc"}}}, "abc"),
        (
            {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
                "required": ["next"],
            },
            {"next": None},
        ),
    ],
)
def test_fewest_characters_of_a_schema(schema: dict[str, Any], shortest: Any) -> None:
    fewest = fewest_of_schema(schema)
    written = len(msgspec.json.encode(shortest).decode())
    # Less where a part may need itself, or names are not told apart.
    assert written - 6 <= fewest <= written
    assert fewest == written or "minProperties" in schema or "next" in schema.get("properties", {})


def test_long_chains_and_large_numbers_cost_nothing() -> None:
    chain = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(5000)}
    assert fewest_of_schema({"$ref": "#/$defs/a0", "$defs": chain}) >= 0
    assert (
        fewest_of_schema({"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}}) == 10**12
    )
    twice: dict[str, Any] = {
        f"a{number}": {"type": "array", "minItems": 2, "items": {"$ref": f"#/$defs/a{number + 1}"}}
        for number in range(50)
    }
    assert fewest_of_schema({"$ref": "#/$defs/a0", "$defs": twice | {"a50": {"const": "x"}}}) == 10**12
