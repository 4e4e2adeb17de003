"""The part of a job that is under way: which replies count."""

from __future__ import annotations

import json

import pytest

from guideway.producers.batch import window as module
from guideway.producers.batch.open_piece import ALL, Next
from guideway.producers.batch.stored import Index, PieceOf, RequestIds, SentRow
from guideway.producers.batch.window import WINDOW_ROWS, Window

IDS = RequestIds("batch-1", "5e" * 16)


def window() -> Window:
    rows = [SentRow(line, f"r{line}", "/shop/mood", b'{"text":"a"}', "application/json") for line in (1, 2)]
    made = Window(IDS, Index([PieceOf(2, "0" * 64)]))
    made.publish(Next(0), rows, 0)
    return made


def reply(id_: str) -> bytes:
    return json.dumps({"schema": "guideway.reply.completed.v1", "id": id_}).encode()


def test_a_reply_counts_once_for_the_row_that_was_asked() -> None:
    made = window()
    assert made.take(reply(IDS.of(1)), 0, 1)
    assert not made.take(reply(IDS.of(1)), 0, 1)
    assert (made.unanswered, list(made.open[0, ALL].replies)) == (1, [1])


@pytest.mark.parametrize(
    "id_",
    [
        "batch-1.1",
        f"batch-1.1.{'0' * 16}",
        RequestIds("batch-1", "00" * 16).of(1),
        RequestIds("batch-2", "5e" * 16).of(1),
        IDS.of(1).replace(".1.", ".0."),
        IDS.of(1).replace(".1.", ".01."),
        IDS.of(2),
    ],
)
def test_whoever_knows_a_job_and_not_its_secret_answers_no_row_of_it(id_: str) -> None:
    """Any caller of the namespace may have a reply sent to the topic that a batcher reads, under an id it chooses."""
    made = window()
    assert not made.take(reply(id_), 0, 1)
    assert made.unanswered == 2


def test_no_more_rows_are_sent_than_their_answers_find_room_for() -> None:
    """Two thousand rows whose answers have a hundred kilobytes each would take 200 MB of a batcher that others use."""
    made = Window(IDS, Index([PieceOf(2, "0" * 64)] * 2))
    row = SentRow(1, "r1", "/shop/mood", b"a", "text/plain")
    made.publish(Next(0), [row, row], 0)
    assert made.admits(2000, 0)
    assert made.take(reply(IDS.of(0)) + b" " * 100_000, 0, 1)
    assert not made.admits(2000, 0)
    made.close(made.open[0, ALL])
    assert made.admits(2000, 0), "one piece always may"


def test_long_answers_of_one_endpoint_go_on_beside_another_that_has_no_workers() -> None:
    """Room is kept for the answers of that one, which never come: it must not be all that is left."""
    pieces, of_lively = 6, 250
    rows = [SentRow(n, f"r{n}", "/shop/a" if n % 2 else "/shop/b", b"x", "text/plain") for n in range(2 * of_lively)]
    made = Window(IDS, Index([PieceOf(len(rows), "0" * 64, [0, 1])] * pieces, ["/shop/a", "/shop/b"]))
    sent, answered = 0, 0
    waiting: list[int] = []
    for now in range(600):
        one = made.next(sent, [0, 1] if sent < pieces else [], WINDOW_ROWS, now)
        if one is not None:
            sent += one.endpoint == ALL
            waiting += [number for number, row in made.publish(one, rows, 0) if row.endpoint == "/shop/a"]
        for number in waiting[:40]:
            assert made.take(reply(IDS.of(number)) + b" " * 60_000, now, 1e9)
            answered += 1
        del waiting[:40]
        for piece in made.finished():
            made.close(piece)
        for piece in made.spilling():
            piece.is_written()
    assert answered == pieces * of_lively


def test_an_endpoint_that_answers_is_not_told_as_one_for_which_all_rows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are left behind as may be, and it has all the rows that it may have: it goes on with each answer."""
    monkeypatch.setattr(module, "MOST_BEHIND", 1)
    pieces = 20
    rows = [SentRow(n, f"r{n}", "/shop/a" if n % 2 else "/shop/b", b"x", "text/plain") for n in range(500)]
    made = Window(IDS, Index([PieceOf(len(rows), "0" * 64, [0, 1])] * pieces, ["/shop/a", "/shop/b"]))
    sent, waiting, silent = 0, list[int](), list[str]()
    for now in range(300):
        while (one := made.next(sent, [0, 1] if sent < pieces else [], WINDOW_ROWS, now)) is not None:
            sent += one.endpoint == ALL
            waiting += [number for number, row in made.publish(one, rows, 0) if row.endpoint == "/shop/a"]
        assert not made.stuck
        silent += made.silent(now)
        for number in waiting[: 20 * (now > 1)]:
            made.take(reply(IDS.of(number)), now, 1e9)
        del waiting[: 20 * (now > 1)]
        for piece in made.finished():
            made.close(piece)
    assert {*silent} == {"/shop/b"}
    assert sent == pieces
