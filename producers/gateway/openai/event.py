"""A request in OpenAI's form → the event that it is for its endpoint. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from guideway.producers.events.read_event import GUIDANCE_FORM, no_guidance
from guideway.producers.gateway.openai.form import require_form, require_logprobs
from guideway.producers.gateway.openai.parameters import Chat, Completion, Message, generation_of, parameter_of
from guideway.producers.gateway.openai.refused import Wrong
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_SHOWN_CHARS: Final = 60


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What is published."""

    content: bytes
    content_type: str
    headers: tuple[tuple[str, bytes], ...]
    guidance: tuple[str, ...]


def prepared(asked: Chat | Completion, endpoint: Endpoint | None) -> Prepared:
    """The event of a request. endpoint: None: the router chooses it.

    Raises Wrong, as far as the parameters tell it; whatever else is wrong, the endpoint service refuses.
    """
    require_form(asked.response_format if isinstance(asked, Chat) else None, endpoint)
    require_logprobs(asked, endpoint)
    text, given = _text(asked), _fields(asked)
    generation = generation_of(asked)
    headers: tuple[tuple[str, bytes], ...] = ()
    if generation != AskedGeneration():
        headers = ((header.GENERATION, msgspec.json.encode(generation)),)
    guidance = tuple(asked.guidance or ())
    if (wrong := no_guidance(",".join(guidance))) is not None:
        raise Wrong(f"guidance has {wrong!r}, which is no name: write {GUIDANCE_FORM}", "guidance")
    if endpoint is None:
        if given or text is None:
            raise Wrong("the router takes a text and no fields: send one message, or name an endpoint", "model")
        return Prepared(content=text.encode(), content_type=_TEXT, headers=headers, guidance=guidance)
    content = _content(asked, text, given, endpoint)
    if isinstance(content, str):
        return Prepared(content=content.encode(), content_type=_TEXT, headers=headers, guidance=guidance)
    return Prepared(content=msgspec.json.encode(content), content_type=_JSON, headers=headers, guidance=guidance)


def to_blame(refusal: Refusal, asked: Chat | Completion, endpoint: Endpoint | None) -> str | None:
    """The parameter for which the endpoint service or a worker has refused the event; None: that cannot be told."""
    match refusal.code:
        case FailureCode.GENERATION_REFUSED if endpoint is not None:
            generation = generation_of(asked).over(endpoint.generation)
            beyond = endpoint.request_generation.beyond(generation, endpoint.generation)
            return parameter_of(next(iter(beyond), "stop"), asked)
        case FailureCode.MISSING_FIELD | FailureCode.UNKNOWN_FIELD | FailureCode.WRONG_FIELD:
            return _field_to_blame(refusal, asked)
        case FailureCode.TEXT_TOO_LONG | FailureCode.UNDECODABLE_EVENT | FailureCode.OUTPUT_UNSATISFIABLE:
            return _said_in(asked)
        case FailureCode.GUIDANCE_FORBIDDEN | FailureCode.GUIDANCE_UNKNOWN | FailureCode.INVALID_HEADER:
            return "guidance" if asked.guidance else None
    return None


def _field_to_blame(refusal: Refusal, asked: Chat | Completion) -> str:
    for parameter, given in (("metadata", asked.metadata), ("fields", asked.fields)):
        if any(f"field {name[:_SHOWN_CHARS]!r}" in refusal.message for name in given or ()):
            return parameter
    return "fields" if refusal.code is FailureCode.MISSING_FIELD else _said_in(asked)


def _said_in(asked: Chat | Completion) -> str:
    return "messages" if isinstance(asked, Chat) else "prompt"


def _content(
    asked: Chat | Completion, text: str | None, given: dict[str, Any], endpoint: Endpoint
) -> dict[str, Any] | str:
    """The fields, or the text alone."""
    field, where = endpoint.input.text_field, _said_in(asked)
    if text is None:
        if not given:
            raise Wrong(f"{where} is empty, and no fields are given: send one message of the user", where)
        return given
    if field is None:
        taken = ", ".join(endpoint.input.fields)
        raise Wrong(
            f'this endpoint takes no plain text: leave {where} empty ([] or ""), and give {taken} by `fields`', where
        )
    if field in given:
        raise Wrong(f"the text is field {field!r}, which is given by fields or metadata too: leave one out", where)
    return {field: text, **given} if given else text


def _fields(asked: Chat | Completion) -> dict[str, Any]:
    metadata, fields = asked.metadata or {}, asked.fields or {}
    if both := [name for name in metadata if name in fields]:
        raise Wrong(f"field {both[0][:_SHOWN_CHARS]!r} is given by metadata and by fields: leave one out", "metadata")
    return {**metadata, **fields}


def _text(asked: Chat | Completion) -> str | None:
    """What the user says; None: nothing."""
    if isinstance(asked, Completion):
        return _prompt(asked.prompt)
    if not asked.messages:
        return None
    for number, message in enumerate(asked.messages[:-1]):
        raise Wrong(_no_turn(message), f"messages[{number}]")
    last, place = asked.messages[-1], f"messages[{len(asked.messages) - 1}]"
    if last.role != "user":
        raise Wrong(_no_turn(last), place)
    if last.content is None:
        raise Wrong("the message has no content: write the text there", f"{place}.content")
    if isinstance(last.content, str):
        return last.content
    return "\n".join(_part(part, f"{place}.content[{number}]") for number, part in enumerate(last.content))


def _no_turn(message: Message) -> str:
    if message.role in ("system", "developer"):
        return (
            f"an endpoint has an instruction of its own, so no {message.role} message is taken: leave it out, or have "
            "it written as `instruction` in the endpoint's manifest"
        )
    if message.role in ("user", "assistant"):
        return "an endpoint answers one text and takes no conversation: send one message, of the user"
    return f"a message of role {message.role[:_SHOWN_CHARS]!r} is not taken: send one message, of the user"


def _part(part: dict[str, Any], place: str) -> str:
    kind, text = part.get("type"), part.get("text")
    if kind != "text" or not isinstance(text, str):
        shown = str(kind)[:_SHOWN_CHARS]
        raise Wrong(f"endpoints take text, and this part is of type {shown!r}: send parts of type 'text' only", place)
    if more := [name for name, value in part.items() if name not in ("type", "text") and value is not None]:
        raise Wrong(f"a text has no {more[0][:_SHOWN_CHARS]!r}: leave it out", f"{place}.{more[0][:_SHOWN_CHARS]}")
    return text


def _prompt(prompt: str | list[Any]) -> str | None:
    if isinstance(prompt, list):
        if any(not isinstance(one, str) for one in prompt):
            raise Wrong("the prompt is given as tokens: give it as text", "prompt")
        if len(prompt) > 1:
            raise Wrong(f"{len(prompt)} prompts are given: send a request for each", "prompt")
        prompt = prompt[0] if prompt else ""
    return prompt or None
