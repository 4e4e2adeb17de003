"""What the topic of shadows says: rows once each, and nothing of what others may have written there."""

from __future__ import annotations

import msgspec
import pytest

from guideway.schemas.names.service_topics import shadows_topic
from guideway.schemas.services.shadow import ShadowAnswer, ShadowRow, ShadowState
from guideway.schemas.wire import SHADOW, Undecodable
from guideway.training.replays.answers import Given
from guideway.usecases.shadows.book import Book, compared_rows, key_of_row, row_of

TOPIC = shadows_topic("shop")
STATE = ShadowState(shadow="mood-1", stage="running", begun_ms=1, at_ms=1, changes={}, version=1, rows=2, becomes="d")


def row(id_: str, value: str, shadow: str = "mood-1") -> tuple[bytes, bytes]:
    now, new = (Given(number=7, side=side, value=value, text=value, latency_ms=2.5) for side in ("now", "new"))
    return key_of_row("mood", shadow, id_), SHADOW.encode(row_of(shadow, id_, now, new))


def test_each_event_counts_once_in_the_order_in_which_they_came() -> None:
    book = Book()
    for key, value in (row("a", "1"), row("b", "2"), row("a", "3"), row("c", "4", "mood-2")):
        book.absorb(TOPIC, key, value)
    book.absorb(TOPIC, b"mood", SHADOW.encode(STATE))
    rows = book.rows("shop", "mood", "mood-1")
    assert [(one.id, one.new.value) for one in rows] == [("a", "1"), ("b", "2")]
    assert rows.has(key_of_row("mood", "mood-1", "a"))
    assert not rows.has(key_of_row("mood", "mood-2", "a"))
    assert (book.state("shop", "mood"), book.endpoints()) == (STATE, [("shop", "mood")])
    asked, now, new = compared_rows(rows)
    assert [one.number for one in asked] == [one.number for one in now] == [one.number for one in new] == [1, 2]
    assert (new[1].side, new[1].value, new[1].latency_ms) == ("new", "2", 2.5)
    assert len(book.keys("shop", "mood")) == 3
    for key in book.keys("shop", "mood"):
        book.absorb(TOPIC, key, None)
    assert not book.keys("shop", "mood")
    book.forget(TOPIC)
    assert book.state("shop", "mood") is None


def test_nothing_of_an_input_is_kept() -> None:
    fields = {one.name for one in msgspec.structs.fields(ShadowRow)} | {
        one.name for one in msgspec.structs.fields(ShadowAnswer)
    }
    assert not fields & {"content", "input", "guidance", "generation"}
    assert "text" in {one.name for one in msgspec.structs.fields(ShadowAnswer)}, "of the answer"


@pytest.mark.parametrize(
    ("topic", "key", "value"),
    [
        ("gw.shop.catalogue.v1", b"mood", SHADOW.encode(STATE)),
        (TOPIC, None, SHADOW.encode(STATE)),
        (TOPIC, b"\xff/x/y", None),
        (TOPIC, b"mood/x", SHADOW.encode(STATE)),
        (TOPIC, b"mood/mood-1/x", SHADOW.encode(STATE)),
        (TOPIC, b"mood", row("a", "1")[1]),
        (TOPIC, b"mood/mood-2/x", row("a", "1")[1]),
        (TOPIC, b"mood", b"{}"),
        (TOPIC, b"mood", b"\xff"),
    ],
)
def test_what_is_no_message_of_ours_counts_for_nothing(topic: str, key: bytes | None, value: bytes | None) -> None:
    book = Book()
    with pytest.raises(Undecodable):
        book.absorb(topic, key, value)
    assert not book.endpoints()
    assert not book.keys("shop", "mood")
