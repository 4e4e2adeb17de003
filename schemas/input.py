"""Input rules: the fields that an event brings, and how they become the text."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

MAX_MESSAGE_CHARS: Final = 500
EMBEDDED: Final = "base64:"
"""How descriptors begin that stand in a manifest themselves."""
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
    format: Literal["json", "protobuf"] = "json"
    """`protobuf`: an event may also be the Protobuf message `message`. JSON and text are taken as well."""
    message: Annotated[str, Meta(max_length=MAX_MESSAGE_CHARS)] = ""
    """The full name of the Protobuf message, such as `shop.v1.Ticket`. The fields have the names of its fields; if none
    are written, they are derived from it."""
    descriptors: str = ""
    """In a file: the message's FileDescriptorSet (or its `.proto`), relative to the file. In the catalogue: `base64:`
    and as much of it as the message needs."""

    def __post_init__(self) -> None:
        if self.format == "protobuf" and not (self.message and self.descriptors):
            raise ValueError(
                "input.format is protobuf, which needs the message and its descriptors: write `message: "
                "PACKAGE.MESSAGE` and `descriptors: FILE`, which `protoc --include_imports --descriptor_set_out=FILE` "
                "makes"
            )
        if self.format == "json" and (self.message or self.descriptors):
            which = "message" if self.message else "descriptors"
            raise ValueError(f"input.{which} is of Protobuf: write `format: protobuf`, or remove it")
