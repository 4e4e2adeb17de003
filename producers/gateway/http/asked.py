"""What a request's headers ask for, read once. Pure, and the same for every path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec
from starlette.datastructures import Headers

from guideway.producers.events.envelope import MAX_ID_CHARS, is_id
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.names import header
from guideway.schemas.request import FIRST_DEADLINE_MS, LAST_DEADLINE_MS

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,510}[\x21-\x7e])?")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
_WAIT: Final = re.compile(r"[0-9]{1,9}")
_MS: Final = re.compile(r"[0-9]{13}")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


class Prefer(msgspec.Struct, frozen=True):
    """`Prefer` (RFC 7240): what is not known there is passed over, as the specification has it."""

    respond_async: bool = False
    wait_s: int | None = None


def prefer(headers: Headers) -> Prefer:
    """Of the several that may be there the first of each name counts. Never raises."""
    respond_async, wait_s = False, None
    for one in (part for line in headers.getlist("prefer") for part in line.split(",")):
        name, _, value = one.split(";", 1)[0].partition("=")
        match name.strip().lower(), value.strip().strip('"'):
            case "respond-async", "":
                respond_async = True
            case "wait", value if wait_s is None and _WAIT.fullmatch(value):
                wait_s = int(value)
    return Prefer(respond_async, wait_s)


def idempotency_key(headers: Headers, called: str = "header Idempotency-Key") -> str | None:
    """`Idempotency-Key`, with or without the quotes of a structured field. Raises DoorRefusal(bad_request).

    called: what its caller calls it.
    """
    given = headers.getlist("idempotency-key")
    if not given:
        return None
    text = given[0].strip()
    if (quoted := _QUOTED.fullmatch(text)) is not None:
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(set(given)) > 1 or not text or not is_id(text) or not text.isascii():
        raise DoorRefusal(
            DoorCode.BAD_REQUEST,
            f"the {called} is one text of 1 to {MAX_ID_CHARS} printable ASCII characters: correct it",
        )
    return text


def deadline_ms(headers: Headers, now_ms: int) -> int | None:
    """Until when a result is wanted, Unix milliseconds: `Request-Timeout`, in seconds, or `Deadline`; the earlier.

    Raises DoorRefusal(bad_request).
    """
    found = []
    if (timeout := headers.get("request-timeout")) is not None:
        if not _SECONDS.fullmatch(timeout.strip()):
            raise DoorRefusal(DoorCode.BAD_REQUEST, "the header Request-Timeout is a number of seconds, such as 2.5")
        found.append(now_ms + int(float(timeout) * 1000))
    if (deadline := headers.get("deadline")) is not None:
        found.append(_time_ms(deadline.strip()))
    return min(found, default=None)


def is_over(headers: Headers, now_ms: int) -> bool:
    """Whether the time that `Deadline` names has passed: sent again as it is, the request would be as late."""
    return (deadline := headers.get("deadline")) is not None and _time_ms(deadline.strip()) <= now_ms


def _time_ms(text: str) -> int:
    if _MS.fullmatch(text):
        return _meant(int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise DoorRefusal(
            DoorCode.BAD_REQUEST,
            "the header Deadline is Unix time in milliseconds, or RFC 3339 with an offset "
            "(2026-12-01T12:00:00Z): correct it",
        )
    return _meant(int(time.timestamp() * 1000))


def _meant(ms: int) -> int:
    if ms < FIRST_DEADLINE_MS:
        raise DoorRefusal(
            DoorCode.BAD_REQUEST, "the header Deadline is of long ago: is it a date that was never set? Correct it"
        )
    # Clients write the year 9999 for `never`.
    return min(ms, LAST_DEADLINE_MS)


def guidance(headers: Headers) -> tuple[str, ...]:
    """`Guidance`: names with commas, as on the wire."""
    parts = (part.strip() for line in headers.getlist("guidance") for part in line.split(","))
    return tuple(part for part in parts if part)


def generation(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """`Generation`: a JSON object, as on the wire, where it is read. Raises DoorRefusal(bad_request)."""
    given = headers.getlist(header.GENERATION)
    if len(given) > 1:
        raise DoorRefusal(
            DoorCode.BAD_REQUEST, "there are several headers Generation: send one, a JSON object of all parameters"
        )
    return tuple((header.GENERATION, one.encode("latin-1")) for one in given)


def trace(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """`traceparent` and `tracestate` as event headers; what has not their form is dropped, as W3C has it."""
    parent = headers.get(header.TRACEPARENT, "")
    if not _TRACEPARENT.fullmatch(parent):
        return ()
    state = ",".join(headers.getlist(header.TRACESTATE))
    found = [(header.TRACEPARENT, parent.encode())]
    if _TRACESTATE.fullmatch(state):
        found.append((header.TRACESTATE, state.encode()))
    return tuple(found)


JSON: Final = "application/json"
PROTOBUF: Final = ("application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf")
EVENTS: Final = "text/event-stream"
_MOST_ACCEPT_CHARS: Final = 1000


def wanted(headers: Headers, offered: Iterable[str]) -> str:
    """Which of the offered media types `Accept` prefers; the first where it does not say.

    Raises DoorRefusal(not_acceptable).
    """
    offered = list(offered)
    given = ",".join(headers.getlist("accept")).strip()
    if not given:
        return offered[0]
    best, best_q = "", 0.0
    ranges = [_range(one) for one in given.split(",")[:50]]
    for kind in offered:
        # The most exact range decides on a type.
        fit = [(exact, q) for pattern, q in ranges if (exact := _fits(pattern, kind))]
        q = max(fit)[1] if fit else 0.0
        if q > best_q:
            best, best_q = kind, q
    if not best:
        raise DoorRefusal(DoorCode.NOT_ACCEPTABLE, f"replies are {', '.join(offered)}: accept one of these")
    return best


def protobuf_form(headers: Headers) -> str:
    """`Accept` as the event is to have it: it may name a message. Raises DoorRefusal(bad_request)."""
    given = ",".join(headers.getlist("accept"))
    if len(given) > _MOST_ACCEPT_CHARS or not given.isascii() or not given.isprintable():
        raise DoorRefusal(DoorCode.BAD_REQUEST, f"the header Accept has at most {_MOST_ACCEPT_CHARS} ASCII characters")
    return given


def _range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, min(1.0, max(0.0, float(value)))
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _fits(pattern: str, kind: str) -> int:
    """How exactly: 0 for not at all."""
    if pattern == kind:
        return 3
    if pattern == kind.split("/", maxsplit=1)[0] + "/*":
        return 2
    return 1 if pattern == "*/*" else 0
