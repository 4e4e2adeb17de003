"""JMESPath with a bound on what an expression costs, so that no endpoint's template can hold up the process.

JMESPath has no loops, but `map` within `map` over a list of 100 costs 100 × 100, and a list of two of the list before,
thirty times, is a list of 2³⁰. So every evaluation is charged as it goes: each visit of a node of the expression, each
value that is made, and each value that a function or a comparison reads whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import ArityError, JMESPathError, UnknownFunctionError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

BUDGET: Final = 1_000_000
"""What the expressions of one text may cost: about a fifth of a second, 10 MB."""
_VISIT: Final = 10
"""The cost of visiting one node of the expression. A value costs 1, and 1 more for each hundred characters."""
_CHARS: Final = 100
_CHEAP: Final = frozenset({"length", "type", "not_null", "map", "to_array"})
"""Functions that do not read their arguments whole, or whose reading is charged as visits."""
_MAKERS: Final = frozenset(
    {
        "multi_select_list",
        "multi_select_dict",
        "flatten",
        "projection",
        "filter_projection",
        "value_projection",
        "slice",
        "function_expression",
    }
)
"""Nodes that make a new value; the others return a part of what is there."""
_LOOKING: Final = frozenset(
    {"subexpression", "pipe", "index_expression", "projection", "filter_projection", "value_projection", "flatten"}
)
"""Nodes that look for something inside of what their first child is."""

WHOLE: Final = "@"
"""How JMESPath writes all fields together."""


class TooCostly(ValueError):
    """The expressions cost more than one text may."""


class Budget:
    """The cost that is left for the expressions of one text."""

    def __init__(self, left: int = BUDGET) -> None:
        self._left = left

    def affords(self, cost: int) -> bool:
        """Whether so much is left."""
        return self._left >= cost

    def charge(self, cost: int) -> None:
        """Raises TooCostly if there is not so much left."""
        self._left -= cost
        if self._left < 0:
            raise TooCostly("its expressions cost more than one text may: shorten the lists, or nest less")

    def charge_whole(self, value: Any) -> None:
        """Charge for everything in the value, each time that it occurs."""
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str):
                self.charge(1 + len(one) // _CHARS)
            elif isinstance(one, list):
                self.charge(1 + len(one))
                waiting.extend(one)
            elif isinstance(one, dict):
                self.charge(1 + len(one))
                waiting.extend(one)
                waiting.extend(one.values())
            else:
                self.charge(1)


class NoFunction(ValueError):
    """An expression calls an unknown function, or one with the wrong number of arguments."""


class _Bounded(TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def visit(self, node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._budget.charge(_VISIT)
        value = super().visit(node, *args, **kwargs)
        if node["type"] in _MAKERS:
            self._budget.charge_whole(value)
        return value

    def visit_flatten(self, node: Mapping[str, Any], value: Any) -> Any:
        # Its parts are charged before they are put together: a thousand times the same list fits in a short one.
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            self._budget.charge(sum(len(element) for element in base if isinstance(element, list)))
        return super().visit_flatten({"children": [{"type": "literal", "value": base}]}, value)

    def visit_comparator(self, node: Mapping[str, Any], value: Any) -> Any:
        sides = [self.visit(child, value) for child in node["children"]]
        for side in sides:
            self._budget.charge_whole(side)
        literals = [{"type": "literal", "value": side} for side in sides]
        return super().visit_comparator({"value": node["value"], "children": literals}, value)

    def visit_function_expression(self, node: Mapping[str, Any], value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        if node["value"] not in _CHEAP:
            for argument in arguments:
                self._budget.charge_whole(argument)
        if node["value"] == "join" and len(arguments) == 2 and isinstance(arguments[1], list):
            self._budget.charge(len(str(arguments[0])) * len(arguments[1]) // _CHARS)
        return self._functions.call_function(node["value"], arguments)


_RELATIVE: Final = frozenset(
    {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection", "flatten"}
)
"""Nodes whose first child is applied to the same value as the node; each other child is applied to what came before."""


def _first_fields(node: Mapping[str, Any]) -> Iterator[str]:
    """The fields that the node reads of the value that it is applied to."""
    if node["type"] in {"field", "current", "identity"}:
        yield node.get("value", WHOLE)
        return
    children = [child for child in node.get("children", []) if isinstance(child, Mapping)]
    # What `map` and the like apply to elements is no part of the event.
    for child in children[:1] if node["type"] in _RELATIVE else children if node["type"] != "expref" else []:
        yield from _first_fields(child)


def _looks_inside(node: Mapping[str, Any]) -> bool:
    """Whether it first looks for something inside of the value that it is applied to."""
    if node["type"] not in _LOOKING:
        return bool(node["type"] == "field")
    first, *others = node["children"]
    if first["type"] not in {"current", "identity"}:
        return _looks_inside(first)
    return node["type"] not in {"pipe", "subexpression"} or _looks_inside(others[0])


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


class Expression:
    """A parsed expression. what: it is, for messages.

    Raises ValueError, which says what is wrong with it, for one that cannot be parsed.
    """

    def __init__(self, text: str, what: str = "expression") -> None:
        self._text = text
        try:
            self._parsed = jmespath.compile(text).parsed
        except (JMESPathError, RecursionError, ValueError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            raise ValueError(f"{what} {_short(text)!r} is not JMESPath: {reason[:100]}") from None
        self._field = self._parsed["value"] if self._parsed["type"] == "field" else None

    def __str__(self) -> str:
        return self._text

    @property
    def is_path(self) -> bool:
        """Whether it only names a field, or a field of a field."""
        nodes = [self._parsed]
        while nodes:
            node = nodes.pop()
            if node["type"] not in {"field", "subexpression"}:
                return False
            nodes.extend(node["children"])
        return True

    @property
    def fields(self) -> frozenset[str]:
        """The fields of the event that it reads; `WHOLE` among them where it reads the event as a whole."""
        return frozenset(_first_fields(self._parsed))

    def looks_inside(self, names: Collection[str]) -> str | None:
        """The first of these fields inside of which it looks for something, as in `text.a`, `text[0]`, `text | a`."""
        nodes = [self._parsed]
        while nodes:
            node = nodes.pop()
            children = node["children"]
            if node["type"] not in _LOOKING:
                nodes += children if node["type"] in {"function_expression", "multi_select_list"} else []
                continue
            nodes.append(children[0])
            into = node["type"] not in {"pipe", "subexpression"} or _looks_inside(children[1])
            if children[0]["type"] == "field" and into and children[0]["value"] in names:
                return str(children[0]["value"])
        return None

    def shown(self, fields: Mapping[str, Any], budget: Budget) -> str:
        """Its value as text: a string as it is, null as nothing, anything else as JSON.

        Raises ValueError if it cannot be applied to these fields; TooCostly.
        """
        if self._field is not None and budget.affords(_VISIT) and isinstance(value := fields.get(self._field), str):
            # What most templates do. The interpreter says the same, and takes thirty times as long.
            budget.charge(_VISIT)
            return value
        with self._explained():
            value = _Bounded(budget).visit(self._parsed, fields)
            if value is None:
                return ""
            if isinstance(value, str):
                return value
            budget.charge_whole(value)
            return json.dumps(value, ensure_ascii=False)

    def holds(self, fields: Mapping[str, Any], budget: Budget) -> bool:
        """Whether its value is true as JMESPath has it: not false, null, or an empty text, list or object.

        Raises as `shown` does.
        """
        with self._explained():
            value = _Bounded(budget).visit(self._parsed, fields)
            return value is not None and value is not False and value not in ("", [], {})

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except TooCostly as error:
            raise TooCostly(f"expression {_short(self._text)!r}: {error}") from None
        except (UnknownFunctionError, ArityError) as error:
            functions = ", ".join(sorted(Functions.FUNCTION_TABLE))
            raise NoFunction(f"expression {_short(self._text)!r}: {error}; its functions are {functions}") from None
        except (JMESPathError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
            # Functions of numbers meet some that no float, or no text, can hold.
            raise ValueError(
                f"expression {_short(self._text)!r} does not fit the fields ({type(error).__name__}): give "
                "them the types that its functions take"
            ) from None
