"""What a process holds is bounded, and one namespace cannot have all of it."""

from __future__ import annotations

import pytest

from guideway.producers.gateway.room import Room
from guideway.producers.gateway.status import DoorCode, DoorRefusal


def test_bodies_of_one_namespace_leave_room_for_those_of_others() -> None:
    room = Room(most=10, most_of_one=5, most_bytes=100, most_bytes_of_one=60)
    with room.reading("a") as first, room.reading("a") as second, room.reading("b") as other:
        first(40)
        with pytest.raises(DoorRefusal) as refused:
            second(21)
        assert refused.value.code is DoorCode.TOO_MANY_REQUESTS
        other(39)
        with pytest.raises(DoorRefusal) as refused:
            other(1)
        assert refused.value.code is DoorCode.BUSY
    with room.reading("a") as again:
        again(60)


def test_what_is_given_back_makes_room() -> None:
    room = Room(most=10, most_of_one=5, most_bytes=100, most_bytes_of_one=60)
    held = room.held("a")
    held(50)
    held.less(40)
    with room.reading("a") as other:
        other(50)
    with pytest.raises(DoorRefusal):
        held(51)
    held.close()
    held.close()
    assert (room._held_bytes, room._held_of) == (0, {})
