"""What `gw.NAMESPACE.shadows.v1` holds: how far the shadow of each endpoint is, and the rows of it. Pure.

Keys: `ENDPOINT` of a state; `ENDPOINT/SHADOW/DIGEST` of a row, the digest being that of the event's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from guideway.schemas.names.addresses import NAME
from guideway.schemas.names.service_topics import owner_of_shadows
from guideway.schemas.services.shadow import ShadowAnswer, ShadowRow, ShadowState
from guideway.schemas.wire import SHADOW, Undecodable
from guideway.training.replays.answers import SIDES, Asked, Given, Side

Records = list[tuple[bytes, bytes | None]]
"""(key, value)"""
Endpoints = tuple[str, str]
"""(namespace, endpoint)"""
HOPELESS_ROWS: Final = 20
"""So many failures, and nothing else, are the endpoint's and not the rows'."""
_MOST_MESSAGE_CHARS: Final = 500


class Rows:
    """The rows of one shadow, in the order in which they came: each event once."""

    def __init__(self) -> None:
        self._rows: dict[bytes, ShadowRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[ShadowRow]:
        return iter(self._rows.values())

    @property
    def keys(self) -> list[bytes]:
        """Of their records."""
        return list(self._rows)

    def has(self, key: bytes) -> bool:
        """Whether the row of this key is there."""
        return key in self._rows

    def put(self, key: bytes, row: ShadowRow) -> None:
        """Of two with one key, the first counts."""
        self._rows.setdefault(key, row)

    def remove(self, key: bytes) -> None:
        """It is not there any more."""
        self._rows.pop(key, None)

    def hopeless(self) -> str:
        """Why more rows would tell nothing: one of the two has no result for any of many; empty: they would."""
        if len(self._rows) < HOPELESS_ROWS:
            return ""
        for side in SIDES:
            answers = [getattr(row, side) for row in self._rows.values()]
            if all(one.failure for one in answers):
                which = "the new endpoint" if side == "new" else "the endpoint as it is"
                return f"{which} has no result for any of {len(answers)} rows: {answers[0].message}"
        return ""


NO_ROWS: Final = Rows()


class Book:
    """All that the topics say."""

    def __init__(self) -> None:
        self._states: dict[Endpoints, ShadowState] = {}
        self._rows: dict[Endpoints, dict[str, Rows]] = {}

    def absorb(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Take in a record. What is no message of ours counts for nothing. Raises Undecodable of such."""
        namespace = owner_of_shadows(topic)
        name, *rest = (key or b"").decode("ascii", "replace").split("/")
        if namespace is None or not NAME.fullmatch(name) or len(rest) not in (0, 2):
            raise Undecodable("the key is none of a shadow")
        endpoint = (namespace, name)
        message = None if value is None else SHADOW.decode(value)
        match rest, message:
            case [], ShadowState():
                self._states[endpoint] = message
            case [], None:
                self._states.pop(endpoint, None)
            case [shadow, _], None:
                self._of(endpoint, shadow).remove(key or b"")
            case [shadow, _], ShadowRow(shadow=of) if of == shadow:
                self._of(endpoint, shadow).put(key or b"", message)
            case _:
                raise Undecodable("the key and the message do not agree")

    def forget(self, topic: str) -> None:
        """This topic is no more, or may not be read any more."""
        namespace = owner_of_shadows(topic)
        self._states = {one: state for one, state in self._states.items() if one[0] != namespace}
        self._rows = {one: rows for one, rows in self._rows.items() if one[0] != namespace}

    def endpoints(self) -> list[Endpoints]:
        """Those of which there is a state."""
        return sorted(self._states)

    def state(self, namespace: str, name: str) -> ShadowState | None:
        """How far the shadow of this endpoint is; None: it has had none."""
        return self._states.get((namespace, name))

    def rows(self, namespace: str, name: str, shadow: str) -> Rows:
        """Those of this shadow."""
        return self._rows.get((namespace, name), {}).get(shadow, NO_ROWS)

    def keys(self, namespace: str, name: str) -> list[bytes]:
        """Of all rows of this endpoint's shadows."""
        return [key for rows in self._rows.get((namespace, name), {}).values() for key in rows.keys]

    def _of(self, endpoint: Endpoints, shadow: str) -> Rows:
        return self._rows.setdefault(endpoint, {}).setdefault(shadow, Rows())


def key_of_row(endpoint: str, shadow: str, request_id: str) -> bytes:
    """The key of the row of this event."""
    digest = hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{endpoint}/{shadow}/{digest}".encode()


def row_of(shadow: str, request_id: str, now: Given, new: Given) -> ShadowRow:
    """What both have answered, to be kept."""
    return ShadowRow(shadow=shadow, id=request_id, now=_answer(now), new=_answer(new))


def _answer(given: Given) -> ShadowAnswer:
    fields = {name: value for name, value in msgspec.structs.asdict(given).items() if name not in ("number", "side")}
    return ShadowAnswer(**fields | {"message": given.message[:_MOST_MESSAGE_CHARS]})


def compared_rows(rows: Iterable[ShadowRow]) -> tuple[list[Asked], list[Given], list[Given]]:
    """(rows, the answers of now, the new ones) as a comparison takes them. What was asked is not known any more."""
    numbered = list(enumerate(rows, 1))
    asked = [Asked(number=number, id=row.id, content="") for number, row in numbered]
    now, new = ([_given(getattr(row, side), number, side) for number, row in numbered] for side in SIDES)
    return asked, now, new


def _given(answer: ShadowAnswer, number: int, side: Side) -> Given:
    return Given(number=number, side=side, **msgspec.structs.asdict(answer))


def tombstones(keys: Sequence[bytes]) -> Records:
    """The records that remove these."""
    return [(key, None) for key in keys]
