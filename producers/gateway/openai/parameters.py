"""The parameters of a request in OpenAI's form, read. What is not known, or cannot be acted on, is refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from guideway.producers.events.contents import from_json
from guideway.producers.gateway.openai.refused import Wrong
from guideway.schemas.failures import Refusal
from guideway.schemas.generation import AskedGeneration

MAX_MESSAGES: Final = 1000


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a stream is told."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form that the client expects."""

    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The type of the content."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chats and completions have in common. Null is the same as left out."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    """It and `prompt_cache_key` have no effect on the result with OpenAI either."""
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    """Input fields of the endpoint that are strings."""
    fields: dict[str, Any] | None = None
    """Input fields of the endpoint; ours, by `extra_body`."""
    guidance: list[str] | None = None
    """Guidance that the request brings; ours, by `extra_body`."""

    @property
    def tokens(self) -> tuple[str, int | None]:
        """The parameter that bounds the answer, and its value."""
        return "max_tokens", self.max_tokens

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


T = TypeVar("T", bound=_Asked)


class Chat(_Asked, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None

    @property
    def tokens(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().tokens

    @property
    def told(self) -> int | None:
        """How many likely tokens are wanted beside each; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Completion(_Asked, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def told(self) -> int | None:
        """As for a chat."""
        return self.logprobs


_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""OpenAI's parameters that there are none of here → the values that ask for nothing, so that clients may send them."""
_PLACE: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_SHOWN_CHARS: Final = 60


def read_chat(body: bytes) -> Chat:
    """Raises Wrong."""
    return chat_of(_decoded(body))


def read_completion(body: bytes) -> Completion:
    """Raises Wrong."""
    return completion_of(_decoded(body))


def chat_of(found: dict[str, Any]) -> Chat:
    """The request that a decoded body is. Raises Wrong."""
    asked = _read(found, Chat)
    given, tokens = asked.max_tokens, asked.max_completion_tokens
    if given is not None and tokens is not None and given != tokens:
        raise Wrong(f"max_tokens is {given} and max_completion_tokens is {tokens}: leave one out", "max_tokens")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Wrong("top_logprobs is given without `logprobs: true`: add that, or leave it out", "top_logprobs")
    return asked


def completion_of(found: dict[str, Any]) -> Completion:
    """As `chat_of`."""
    return _read(found, Completion)


def generation_of(asked: Chat | Completion) -> AskedGeneration:
    """The generation parameters that are set. Raises Wrong for what no endpoint can have."""
    tokens_name, tokens = asked.tokens
    given = {
        "max_tokens": (tokens_name, tokens),
        "temperature": ("temperature", asked.temperature),
        "top_p": ("top_p", asked.top_p),
        "samples": ("n", asked.n),
        "stop": ("stop", [asked.stop] if isinstance(asked.stop, str) else asked.stop),
        "seed": ("seed", asked.seed),
    }
    found = {}
    for name, (parameter, value) in given.items():
        if value is not None:
            found[name] = value
            try:
                msgspec.convert({name: value}, AskedGeneration)
            except msgspec.ValidationError as error:
                raise Wrong(f"{parameter} cannot be {_shown(value)}: {_PLACE.sub('', str(error))}", parameter) from None
    return msgspec.convert(found, AskedGeneration)


def parameter_of(name: str, asked: Chat | Completion) -> str:
    """OpenAI's name for one of our generation parameters."""
    return {"samples": "n", "max_tokens": asked.tokens[0]}.get(name, name)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = from_json(body)
    except Refusal as refusal:
        raise Wrong(f"the body is not read: {refusal.message}", code=refusal.code) from None
    if not isinstance(found, dict):
        raise Wrong("the body is no JSON object: send one with `model` and what is asked")
    return found


def _read(found: dict[str, Any], kind: type[T]) -> T:
    known = set(kind.__struct_fields__)
    for name in [name for name in found if name not in known]:
        _require_nothing(name, found[name])
    given = {name: value for name, value in found.items() if value is not None and name in known}
    try:
        asked = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    if asked.stream_options is not None and asked.stream_options.include_obfuscation:
        raise Wrong("streams hold nothing to hide their sizes: leave it out", "stream_options.include_obfuscation")
    return asked


def _require_nothing(name: str, value: Any) -> None:
    """Raises Wrong for a parameter that would have an effect, and has none here."""
    if value is None:
        return
    if name not in _NOTHING:
        raise Wrong(
            f"unknown parameter {name[:_SHOWN_CHARS]!r}: leave it out; input fields of the endpoint belong under "
            "`fields` or `metadata`",
            name[:_SHOWN_CHARS],
        )
    # In Python True equals 1.
    allowed = [one for one in _NOTHING[name] if one == value and isinstance(one, bool) == isinstance(value, bool)]
    if not allowed:
        raise Wrong(f"{name} has no effect here, so {_shown(value)} is not taken: leave it out", name)


def _wrong(message: str) -> Wrong:
    """What msgspec says of a value, with its place as the parameter."""
    found = _PLACE.search(message)
    place = found[1] if found else ""
    what = _PLACE.sub("", message)
    for pattern in (_UNKNOWN, _MISSING):
        if (inner := pattern.search(what)) is not None:
            place = f"{place}.{inner[1]}".strip(".")
    where = f"{place}: " if place else ""
    return Wrong(f"{where}{what[:1].lower()}{what[1:]}: correct it", place or None)


def _shown(value: Any) -> str:
    written = msgspec.json.encode(value).decode()
    return written if len(written) <= _SHOWN_CHARS else f"{written[:_SHOWN_CHARS]}…"
