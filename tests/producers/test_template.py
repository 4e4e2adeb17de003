"""Templates: fields to text, without code."""

from __future__ import annotations

import pytest

from guideway.producers.template import Template


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        ("{text}", {"text": "Is it?"}, "Is it?"),
        ("Q: {q}\nA:", {"q": "x"}, "Q: x\nA:"),
        ("{address.city}, {address.zip}", {"address": {"city": "Oz", "zip": 7}}, "Oz, 7"),
        ("{items[0].name}", {"items": [{"name": "first"}]}, "first"),
        ("{join(', ', tags)}", {"tags": ["a", "b"]}, "a, b"),
        ("{{literally}} {x}", {"x": True}, "{literally} true"),
        ("{missing}!", {}, "!"),
        ("{x}", {"x": ["ä", 1, None]}, '["ä", 1, null]'),
        ("{x}", {"x": "{y}"}, "{y}"),
    ],
)
def test_renders(template: str, fields: dict[str, object], text: str) -> None:
    assert Template(template).render(fields) == text


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("{length(n)}", {"n": 1}),
        ("{avg(n)}", {"n": [10**400]}),
        ("{ceil(to_number(n))}", {"n": "1e999"}),
        ("{floor(to_number(n))}", {"n": "nan"}),
        ("{sum(n)}", {"n": [10**4299] * 20}),
    ],
)
def test_fields_that_an_expression_cannot_take_are_refused(template: str, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not fit the fields"):
        Template(template).render(fields)


@pytest.mark.parametrize("template", ["{", "a } b", "{}", "{a..b}", "{a b}"])
def test_what_is_no_template_is_refused_with_a_reason(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        Template(template)


def test_an_expression_that_does_not_fit_the_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Template("{length(x)}").render({"x": 1})
