"""Templates: fields to text, without code."""

from __future__ import annotations

import functools
import json
import tracemalloc

import pytest

from guideway.producers.marshalling.expression import TooCostly
from guideway.producers.marshalling.template import Template, TextTooLong, _Kept


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
    assert Template(template).render(fields, max_chars=10_000) == text


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
        Template(template).render(fields, max_chars=10_000)


@pytest.mark.parametrize("template", ["{", "a } b", "{}", "{a..b}", "{a b}"])
def test_what_is_no_template_is_refused_with_a_reason(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        Template(template)


def test_an_expression_that_does_not_fit_the_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Template("{length(x)}").render({"x": 1}, max_chars=10)


HUNDRED = f"`{json.dumps(list(range(100)))}`"


@pytest.mark.parametrize(
    "expression",
    [
        functools.reduce(lambda inner, _: f"map(&{inner}, {HUNDRED})", range(6), "@"),
        " | ".join(["[@, @]"] * 40),
        " | ".join(["[@, @][]"] * 40),
        " | ".join(["[" + ",".join(["@"] * 1000) + "][]"] * 4),
        "length(to_string(" + " | ".join(["[@, @]"] * 40) + "))",
        "length(to_string([" + ",".join(["long"] * 3000) + "]))",
        "length(join(long, [" + ",".join(["'x'"] * 3000) + "]))",
        "[" + ",".join(["list == other"] * 300) + "]",
        "[" + ",".join(["contains(list, 'x')"] * 300) + "]",
        "list[*].[" + ",".join(["@"] * 1000) + "][]",
    ],
    ids=lambda expression: expression[:30],
)
def test_an_expression_that_multiplies_is_refused_before_it_has_cost_much(expression: str) -> None:
    fields = {"long": "x" * 400_000, "list": list(range(10_000)), "other": list(range(10_000))}
    tracemalloc.start()
    try:
        with pytest.raises(TooCostly, match="cost more than one text may"):
            Template("{" + expression + "}").render(fields, max_chars=10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_what_all_expressions_of_a_text_cost_counts_together() -> None:
    fields = {"a": list(range(10_000)), "b": list(range(10_000))}
    assert Template("{a == b}").render(fields, max_chars=100) == "true"
    with pytest.raises(TooCostly):
        Template("{a == b}" * 1000).render(fields, max_chars=10_000)


def test_a_text_is_cut_off_while_it_is_rendered() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TextTooLong, match="more than the 20000 characters"):
            Template("{text}" * 20_000).render({"text": "x" * 400_000}, max_chars=20_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


@pytest.mark.parametrize("size", [10, 1000])
def test_ordinary_work_on_lists_is_within_the_budget(size: int) -> None:
    items = [{"name": f"item {n}", "price": n, "ok": n % 2 == 0} for n in range(size)]
    template = "{items[?ok].name | join(', ', @)} {sum(items[*].price)} {sort_by(items, &price)[-1].name}"
    assert Template(template).render({"items": items}, max_chars=100_000).endswith(f"item {size - 1}")


@pytest.mark.parametrize(
    "expression", ["(" * 5000, "`" + "[" * 100_000 + "`", "a[" + "9" * 5000 + "]", "!" * 50_000, "[*]" * 20_000]
)
def test_an_expression_that_cannot_be_parsed_is_refused_in_a_sentence(expression: str) -> None:
    with pytest.raises(ValueError, match="is not JMESPath") as caught:
        Template("{" + expression + "}")
    assert len(str(caught.value)) < 300


def test_a_template_is_plain_where_it_only_puts_fields_in() -> None:
    assert Template("Q: {question}, {address.city}").is_plain
    assert not Template("{join(', ', tags)}").is_plain


def test_templates_are_parsed_once_those_that_are_none_as_well_and_kept_by_their_size() -> None:
    kept = _Kept(1000)
    first = kept.of("{text}")
    assert kept.of("{text}") is first
    broken = "{" + "(" * 300 + "}"
    with pytest.raises(ValueError, match="is not JMESPath") as why:
        kept.of(broken)
    with pytest.raises(ValueError, match="is not JMESPath") as again:
        kept.of(broken)
    assert again.value is why.value
    kept.of("x" * 700)
    assert kept.of("{text}") is not first, "there was no room for all three"
    large = kept.of("y" * 50_000)
    assert kept.of("y" * 50_000) is large
