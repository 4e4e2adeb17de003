"""One attempt, against real servers: what is delivered, what is not, and what is never connected to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence

import pytest
from tests.producers.targets.receiver import Received, answering, receiving

from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.outcome import Answer, Broken, Forbidden, Outcome
from guideway.producers.targets.webhooks.sender import LookUps, Sender
from guideway.schemas.kinds.web_address import web_address

LISTED = egress_of("http://127.0.0.1:* http://hooks.test:*")


async def resolve(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


async def posted(sender: Sender, url: str, timeout_s: float = 5) -> Outcome:
    return await sender.post(web_address(url), {"webhook-id": "msg_1"}, b'{"a":1}', timeout_s=timeout_s)


async def test_a_post_arrives_under_its_name_at_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy of the environment is not asked.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with receiving(answering(204)) as receiver:
        url = f"http://hooks.test:{receiver.port}/in/a%20b?c=d"
        assert await posted(Sender(LISTED, resolve), url) == Answer(204)
    (post,) = receiver.posts
    assert (post.path, post.body) == ("/in/a%20b?c=d", b'{"a":1}')
    assert post.headers["host"] == f"hooks.test:{receiver.port}"
    assert post.headers["webhook-id"] == "msg_1"


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(answering(204)) as elsewhere:
        to = f"location: http://127.0.0.1:{elsewhere.port}/"
        async with receiving(answering(307, to, "set-cookie: a=b")) as receiver:
            assert await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/") == Answer(307)
        assert not elsewhere.posts


@pytest.mark.parametrize(
    ("header", "seconds"), [("retry-after: 30", 30), ("retry-after: Wed, 21 Oct 2015 07:28:00 GMT", 0), ("x: y", None)]
)
async def test_an_answer_says_how_long_to_wait(header: str, seconds: float | None) -> None:
    async with receiving(answering(503, header)) as receiver:
        assert await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/") == Answer(503, seconds)


async def drip_head(_post: Received, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 600:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.1)


async def drip_body(_post: Received, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n")
        for _ in range(600):
            writer.write(b"z")
            await writer.drain()
            await asyncio.sleep(0.1)


async def flood(_post: Received, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"z" * 65536)
            await writer.drain()


async def hang_up(_post: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def nonsense(_post: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n\r\n")


async def test_one_that_drips_its_head_is_given_up_in_time() -> None:
    async with receiving(drip_head) as receiver:
        found = await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/", timeout_s=0.5)
    assert found == Broken("there was no answer within 0.5 s")


async def test_one_that_drips_or_floods_its_body_has_answered() -> None:
    for answer in (drip_body, flood):
        async with receiving(answer) as receiver:
            assert await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/") == Answer(200)


async def test_one_that_hangs_up_or_talks_nonsense_has_not() -> None:
    for answer in (hang_up, nonsense):
        async with receiving(answer) as receiver:
            found = await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/")
        assert isinstance(found, Broken)
    assert isinstance(await posted(Sender(LISTED), f"http://127.0.0.1:{receiver.port}/"), Broken)


@pytest.mark.parametrize(
    "ips",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["fe80::1%2"],
        ["no address"],
    ],
)
async def test_a_host_that_has_an_address_of_ours_is_not_connected_to(ips: list[str]) -> None:
    asked: list[str] = []

    async def to_us(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ips

    async with receiving(answering(204)) as receiver:
        sender = Sender(egress_of("http://*:*"), to_us)
        found = await posted(sender, f"http://rebound.test:{receiver.port}/")
        assert isinstance(found, Forbidden)
        assert "GUIDEWAY_EGRESS" in found.why
        assert not receiver.posts
    # Each attempt looks anew.
    await posted(sender, f"http://rebound.test:{receiver.port}/")
    assert asked == ["rebound.test"] * 2


async def test_what_is_not_listed_is_not_even_looked_up() -> None:
    async def never(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError

    for listed in ("", "other.test", "*.hooks.test", "hooks.test:8443", "http://hooks.test"):
        found = await posted(Sender(egress_of(listed), never), "https://hooks.test/")
        assert isinstance(found, Forbidden), listed


async def test_a_host_that_is_not_found_may_be_there_later() -> None:
    async def nowhere(_host: str, _port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    for resolving in (nowhere, _nothing):
        assert isinstance(await posted(Sender(LISTED, resolving), "http://hooks.test:80/"), Broken)


async def _nothing(_host: str, _port: int) -> Sequence[str]:
    return []


async def test_a_host_is_looked_up_once_at_a_time_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = list[str](), threading.Event()

    def slow(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        go_on.wait(10)
        if host == "bad.test":
            raise OSError("none")
        return [(0, 0, 0, "", ("192.0.2.1", port))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    look_ups = LookUps()
    good = [asyncio.create_task(look_ups.of("good.test", 443)) for _ in range(5)]
    bad = asyncio.create_task(look_ups.of("bad.test", 443))
    await asyncio.sleep(0)
    good.pop().cancel()
    bad.cancel()
    go_on.set()
    assert await asyncio.gather(*good) == [["192.0.2.1"]] * 4
    assert sorted(asked) == ["bad.test", "good.test"]
    with pytest.raises(OSError, match="none"):
        await look_ups.of("bad.test", 443)
