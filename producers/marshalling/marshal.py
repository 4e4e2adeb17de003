"""Event + endpoint → Request, by the endpoint's rules. Pure: takes the catalogue and `now`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.together import check_number, check_together
from guideway.producers.events.unseen import UNSEEN
from guideway.producers.marshalling.asked_generation import asked_generation
from guideway.producers.marshalling.expression import WHOLE
from guideway.producers.marshalling.template import TextTooLong, template_of
from guideway.schemas.calibration import CalibratedBy, Calibration
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.content_types import CLOUD_EVENT_STRUCTURED, REPLY_MESSAGE
from guideway.schemas.output import WordLabels
from guideway.schemas.request import MAX_GUIDANCE, GuidanceRef, Part, ReplyAddress, Request
from guideway.schemas.retrieval import MAX_SETS, Condition, Retrieval, Scalar, is_filterable, named_twice


class Rendered(NamedTuple):
    """What an event says, by its endpoint's input rule."""

    fields: dict[str, Any]
    """The declared fields, checked; absent ones have their default."""
    text: str


def render(event: Event, endpoint: Endpoint) -> Rendered:
    """The fields and the text of an event: the costly part of marshalling, bounded in time, memory and length.

    Raises Refusal, which says what the caller or the endpoint's owner has to change.
    """
    fields = _checked(_fields(event, endpoint), endpoint.input.fields)
    template = template_of(endpoint)
    try:
        text = template.render(fields, max_chars=endpoint.max_text_chars)
    except TextTooLong as error:
        raise Refusal(FailureCode.TEXT_TOO_LONG, str(error)) from None
    except ValueError as error:
        # It quotes the template.
        others = "the endpoint's template cannot be applied to these fields: give them other types or values"
        raise Refusal(FailureCode.WRONG_FIELD, str(error), to_others=others) from None
    if template.says_nothing(text):
        raise Refusal(
            FailureCode.WRONG_FIELD,
            "nothing of the event stands in the text that it becomes: fill in what the endpoint reads of "
            f"{', '.join(sorted(template.fields - {WHOLE}))}",
        )
    return Rendered(fields, text)


def deadline_of(asked_ms: int | None, endpoint: Endpoint, written_ms: int) -> int | None:
    """The deadline of an event, Unix milliseconds. asked_ms: its own."""
    if asked_ms is None and endpoint.deadline_s is not None:
        # Not from now: it may have waited in its topic for long.
        return written_ms + int(endpoint.deadline_s * 1000)
    return asked_ms


def marshal(
    event: Event,
    endpoint: Endpoint,
    version: int,
    catalogue: Catalogue,
    *,
    reply_to: Sequence[ReplyAddress],
    written_ms: int,
    now_ms: int,
    rendered: Rendered | None = None,
    caller: str | None = None,
) -> Request:
    """The request for an event. Raises Refusal, which says what the caller or the endpoint's owner has to change.

    reply_to: where replies go, the caller's address first.
    written_ms, now_ms: Unix milliseconds; the endpoint's deadline counts from the first.
    rendered: `render` of this event and endpoint, where that was done before.
    caller: the namespace that calls, where it is not the endpoint's own.
    """
    deadline_ms = deadline_of(event.deadline_ms, endpoint, written_ms)
    if deadline_ms is not None and deadline_ms <= now_ms:
        later = (
            "set a later one"
            if event.deadline_ms is not None
            else f"it is the endpoint's deadline_s ({endpoint.deadline_s:g}), from when the event was written; send it "
            "again, or give it a `deadline` of its own"
        )
        raise Refusal(
            FailureCode.DEADLINE_EXCEEDED,
            f"the deadline passed {now_ms - deadline_ms} ms before the event was read: {later}",
        )
    fields, text = rendered or render(event, endpoint)
    _check_brought(event, endpoint, catalogue, caller)
    instructions, refs = _guidance(event, endpoint, catalogue)
    output = endpoint.output
    generation = asked_generation(event.generation, endpoint)
    return Request(
        id=event.id,
        namespace=endpoint.namespace,
        endpoint=endpoint.name,
        endpoint_version=version,
        parts=[*instructions, Part(kind="input", source="caller", text=text)],
        guidance=refs,
        output=output,
        words=(fields[output.words_from] or "").split() if isinstance(output, WordLabels) else [],
        generation=generation,
        reply_to=list(reply_to),
        deadline_ms=deadline_ms,
        calibration=_calibration(event, endpoint),
        retrieval=_retrieval(event, endpoint, catalogue, fields, text),
        caller=caller,
        partial=event.partial,
        reply_message=_reply_message(event, endpoint, generation),
    )


def _reply_message(event: Event, endpoint: Endpoint, generation: Generation) -> str | None:
    """The message that the reply is. Raises Refusal(invalid_header) for one that it cannot be."""
    asked, own = event.reply_message, endpoint.output_message
    if asked is None:
        return None
    chosen = asked or own or REPLY_MESSAGE
    if chosen not in (own, REPLY_MESSAGE):
        there = f"{REPLY_MESSAGE}{f' or {own}' if own else ''}"
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {header.ACCEPT} names message {asked[:200]!r}, and a reply of this endpoint is {there}: name that",
        )
    if chosen == own and generation.samples > 1:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"{generation.samples} samples are asked for, and message {own} holds one result: name "
            f"{REPLY_MESSAGE} in the header {header.ACCEPT}, or ask for one sample",
        )
    return chosen


def _fields(event: Event, endpoint: Endpoint) -> dict[str, Any]:
    if isinstance(event.content, dict):
        return event.content
    if endpoint.input.text_field is None:
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"this endpoint takes no plain text: send a JSON object with {', '.join(endpoint.input.fields)}",
        )
    return {endpoint.input.text_field: event.content}


def _a_cloud_event(given: Mapping[str, Any]) -> str:
    if not {"specversion", "id", "source", "type"} <= {*given}:
        return ""
    return f"; if this is a CloudEvent, declare the content type {CLOUD_EVENT_STRUCTURED}+json"


def _checked(given: Mapping[str, Any], declared: Mapping[str, Field]) -> dict[str, Any]:
    if unknown := [name for name in given if name not in declared]:
        raise Refusal(
            FailureCode.UNKNOWN_FIELD,
            f"unknown field {unknown[0][:60]!r}: remove it; the endpoint takes {', '.join(declared)}"
            f"{_a_cloud_event(given)}",
        )
    checked = {}
    for name, field in declared.items():
        if name not in given or (given[name] is None and not field.required):
            if field.required:
                raise Refusal(FailureCode.MISSING_FIELD, f"field {name!r} ({field.type}) is missing: add it")
            checked[name] = field.default
            continue
        value: Any = given[name]
        if not field.takes(value):
            raise Refusal(
                FailureCode.WRONG_FIELD,
                f"field {name!r} must be of type {field.type}, and is {_told(value)}: correct it",
            )
        if isinstance(value, str) and not value.strip(UNSEEN):
            raise Refusal(FailureCode.WRONG_FIELD, f"field {name!r} is empty: fill it in")
        if field.max_chars is not None and isinstance(value, str) and len(value) > field.max_chars:
            raise Refusal(
                FailureCode.TEXT_TOO_LONG,
                f"field {name!r} has {len(value)} characters, at most {field.max_chars} are taken: shorten it",
            )
        checked[name] = value
    return checked


def _told(value: Any) -> str:
    """JSON's name for the type of a value."""
    if value is None:
        return "null"
    kinds = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array"}
    return kinds.get(type(value), "an object")


def _check_brought(event: Event, endpoint: Endpoint, catalogue: Catalogue, caller: str | None) -> None:
    """Whether the endpoint lets this event bring its guidance, and a caller of another namespace may use it as well."""
    if len(event.guidance) > MAX_GUIDANCE + MAX_SETS:
        check_number(len(event.guidance))
    allowed = {*endpoint.request_guidance, *_request_sets(endpoint)}
    for name in event.guidance:
        # The same words in each case: what there is, and what the endpoint's owner may use, is not told to others.
        others = (
            f"an event of namespace {caller} cannot bring guidance {name[:140]} here: leave it out, or ask that the "
            f"endpoint allows it and that its owner shares it with {caller} and {endpoint.namespace}"
        )
        if not _is_listed(name, allowed):
            listed = ", ".join(sorted(allowed)) or "none"
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"this endpoint does not let a request bring guidance {name[:140]}; it allows: {listed}",
                to_others=others,
            )
        if caller is not None and not _usable(name, endpoint, catalogue, caller):
            raise Refusal(FailureCode.GUIDANCE_FORBIDDEN, others, to_others=others)


def _usable(name: str, endpoint: Endpoint, catalogue: Catalogue, caller: str) -> bool:
    """Whether both the caller and the endpoint's owner may use this guidance, or this set."""
    ask = catalogue.retrieval_set if _is_listed(name, _request_sets(endpoint)) else catalogue.guidance
    try:
        for namespace in (caller, endpoint.namespace):
            ask(name, for_namespace=namespace)
    except Refusal:
        return False
    return True


def _guidance(event: Event, endpoint: Endpoint, catalogue: Catalogue) -> tuple[list[Part], list[GuidanceRef]]:
    """Instruction parts in their order, and the trained guidance by name and version."""
    parts, refs = [], []
    if endpoint.instruction:
        parts.append(Part(kind="instruction", source="endpoint", text=endpoint.instruction))
    brought = [name for name in event.guidance if not _is_listed(name, _request_sets(endpoint))]
    check_number(len(endpoint.guidance) + len(brought))
    named = [catalogue.guidance(name, for_namespace=endpoint.namespace) for name in endpoint.guidance]
    try:
        named += [catalogue.guidance(name, for_namespace=endpoint.namespace) for name in brought]
    except Refusal as refusal:
        raise Refusal(refusal.code, f"the event's guidance: {refusal.message}") from None
    check_together(named)
    for ref, guidance in named:
        if guidance.form == "text_prompt":
            parts.append(Part(kind="instruction", source=str(ref), text=guidance.text))
        else:
            refs.append(ref)
    return parts, refs


def _calibration(event: Event, endpoint: Endpoint) -> CalibratedBy | None:
    """Biases are those of the endpoint as it is: under guidance that an event brings, nobody knows them."""
    rule = endpoint.calibration
    return rule.method if isinstance(rule, Calibration) and not event.guidance else None


def _retrieval(
    event: Event, endpoint: Endpoint, catalogue: Catalogue, fields: Mapping[str, Any], text: str
) -> Retrieval | None:
    """What to look up, with the version of each set; None where no set is named."""
    rule = endpoint.retrieval
    if rule is None:
        return None
    brought = [name for name in event.guidance if _is_listed(name, rule.request_sets)]
    refs = [catalogue.retrieval_set(name, for_namespace=endpoint.namespace)[0] for name in [*rule.sets, *brought]]
    if not refs:
        return None
    if len(refs) > MAX_SETS:
        raise Refusal(
            FailureCode.GUIDANCE_FORBIDDEN,
            f"{len(refs)} retrieval sets are named, at most {MAX_SETS} may be: leave some out",
        )
    if brought and (why := named_twice([*rule.sets, *brought])):
        raise Refusal(FailureCode.GUIDANCE_FORBIDDEN, f"the event's guidance: {why}")
    asked = fields.get(rule.query) if rule.query is not None else None
    return rule.of(
        refs,
        text if asked is None else asked,
        [_condition(key, name, fields[name]) for key, name in rule.filter.items() if fields[name] is not None],
    )


def _condition(key: str, name: str, value: Scalar) -> Condition:
    if not is_filterable(value):
        raise Refusal(FailureCode.WRONG_FIELD, f"field {name!r} is looked up by: give an integer of at most 64 bits")
    return Condition(key=key, value=value)


def _request_sets(endpoint: Endpoint) -> list[str]:
    return endpoint.retrieval.request_sets if endpoint.retrieval is not None else []


def _is_listed(name: str, listed: Collection[str]) -> bool:
    """Whether a list has the name, with its version or without."""
    return name in listed or name.partition("@")[0] in listed
