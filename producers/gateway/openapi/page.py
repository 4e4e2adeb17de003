"""The page that shows a caller its endpoints: self-contained, without scripts. Pure."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec

from guideway.producers.gateway.openapi.document import Selection
from guideway.producers.gateway.openapi.shapes import described, example_fields
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Json

HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""What teams wrote stands on it: nothing of that may run, and nobody else may keep it."""
_FOLDER: Final = Path(__file__).parent
_MOST_SCHEMA_CHARS: Final = 20_000


def page(selection: Selection, url: str) -> str:
    """The page, as HTML. url: under which the caller reaches this gateway, without a slash at the end."""
    return _template().render(
        caller=selection.caller, note=selection.note, url=url, endpoints=[*map(_shown, selection.endpoints)]
    )


def style() -> str:
    """The page's style sheet."""
    return (_FOLDER / "page.css").read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string((_FOLDER / "page.html.jinja").read_text("utf-8"))


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    """What the template shows of an endpoint."""
    example, text_field = example_fields(endpoint), endpoint.input.text_field
    extra = {name: value for name, value in example.items() if name != text_field}
    fields = [
        {
            "name": name,
            "type": field.type,
            "max_chars": field.max_chars,
            "required": field.required,
            "default": None if field.default is None else _json(field.default),
            "description": field.description,
        }
        for name, field in endpoint.input.fields.items()
    ]
    return {
        "address": endpoint.address,
        "name": f"{endpoint.namespace}/{endpoint.name}",
        "description": endpoint.description,
        "fields": fields,
        "text_field": text_field,
        "result": described(endpoint.output),
        "schema": _schema(endpoint),
        "settable": _settable(endpoint),
        # In a shell, a single quote would end the text.
        "example": _json(example).replace("'", "'\\''"),
        # As Python writes it.
        "extra": repr(extra) if extra else "",
    }


def _schema(endpoint: Endpoint) -> str:
    if not isinstance(endpoint.output, Json):
        return ""
    written = msgspec.json.format(_json(endpoint.output.schema), indent=2)
    return written if len(written) <= _MOST_SCHEMA_CHARS else f"{written[:_MOST_SCHEMA_CHARS]}\n… (see /openapi.json)"


def _settable(endpoint: Endpoint) -> str:
    """The generation parameters that a request may set, and how far."""
    may = msgspec.structs.asdict(endpoint.request_generation)
    told = [
        name if value is True else f"{name} up to {value:g}"
        for name, value in may.items()
        if value is not None and value is not False
    ]
    return ", ".join(told)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
