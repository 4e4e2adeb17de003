"""When a connection logs in again; that it does is seen in tests/secured/test_tokens.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from guideway.delivery.guards import aiokafka_guards, session_guards
from guideway.delivery.guards.session_guards import again_after

aiokafka_guards.install()


@pytest.mark.parametrize(
    ("holds_s", "chance", "after_s"),
    [(100.0, 0.0, 85.0), (100.0, 1.0, 95.0), (5.0, 0.5, 4.0), (1.5, 0.5, 1.1), (0.2, 0.5, 1.1)],
)
def test_when_it_logs_in_again(holds_s: float, chance: float, after_s: float) -> None:
    assert again_after(holds_s, chance) == pytest.approx(after_s)


async def test_other_requests_wait_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def plain(_self: Any, request: Any, _expect: bool = True) -> asyncio.Future[str]:
        sent.append(type(request).__name__)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        answer.set_result("told")
        return answer

    go_on = asyncio.Event()

    async def handshake(self: Any) -> None:
        await self.send(Handshake())
        await go_on.wait()

    class Handshake:
        pass

    monkeypatch.setattr(session_guards, "_plain_send", plain)
    monkeypatch.setattr(AIOKafkaConnection, "_do_sasl_handshake", handshake)
    connection = AIOKafkaConnection("a", 1)
    again = asyncio.create_task(session_guards._log_in_again(connection))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(connection.send(MetadataRequest([])))
    await asyncio.sleep(0.01)
    assert sent == ["Handshake"]
    go_on.set()
    await again
    assert await waiting == "told"
    assert sent == ["Handshake", "MetadataRequest"]
