"""Input rules: the fields that an event brings, and how they become the text."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A typed input field of an endpoint."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    """The JSON type; an event with a value of another type is refused."""
    required: bool = True
    """Whether an event without it is refused."""
    default: Any = None
    """The value of an optional field that is absent."""
    max_chars: Annotated[int, Meta(ge=1)] | None = None
    """For a string: an event with a longer one is refused."""
    description: str = ""
    """For people."""

    def takes(self, value: Any) -> bool:
        """Whether the value is of the field's type."""
        # In JSON true and false are no numbers; in Python they are.
        return isinstance(value, _PYTHON_TYPES[self.type]) and (self.type == "boolean" or not isinstance(value, bool))


class InputRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How an event's fields become the input text."""

    fields: Annotated[dict[str, Field], Meta(min_length=1)] = msgspec.field(default_factory=lambda: {"text": Field()})
    """The fields by name. An event with an undeclared field is refused."""
    template: str = "{text}"
    """Text with `{EXPRESSION}`: a field's name or a JMESPath expression over the fields; `{{` and `}}` are braces."""
    text_field: str | None = "text"
    """The field that a plain-text event fills; null: plain text is refused."""
