"""One client's connection through the proxy: four tasks, two for each direction, and the order they keep.

Requests reach the broker in the client's order, each once it is due; answers reach the client in the order of its
requests, whatever order the broker saw. The connection to the broker is made when the first request says who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from tests.faults.kafka.frames import (
    Answer,
    Delay,
    DeliverLate,
    Drop,
    Duplicate,
    FrameReader,
    Header,
    Rule,
    Rules,
    correlation_id,
    framed,
    request_header,
)


class Network(Protocol):
    """What a link needs of the proxy."""

    async def connect(self, broker: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...
    async def passing(self, client: str, broker: int) -> None: ...
    def deliver(self, rule: Rule, broker: int, frame: bytes, seconds: float) -> None: ...


class _Broken(Exception):
    """The connection is over, for both ends."""


@dataclass(frozen=True)
class _Response:
    frame: bytes
    came: float


@dataclass(frozen=True)
class _Sending:
    """A request on its way. `answer` becomes None where none will come: the client wants none (acks=0)."""

    header: Header
    frame: bytes
    due: float
    answer: asyncio.Future[_Response | None]
    duplicated_by: Rule | None = None


class Link:
    """Owns both sockets of one client's connection."""

    def __init__(
        self,
        network: Network,
        rules: Rules,
        broker: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._network, self._rules, self._broker = network, rules, broker
        self._client_reader, self._client_writer = reader, writer
        self._broker_writer: asyncio.StreamWriter | None = None
        self._client = ""
        self._loop = asyncio.get_running_loop()
        # A client that sends much faster than the broker takes has to wait, as without a proxy.
        self._requests: asyncio.Queue[_Sending | None] = asyncio.Queue(64)
        self._asked: asyncio.Queue[_Sending | None] = asyncio.Queue()
        self._unanswered: deque[_Sending] = deque()
        self._overtaken: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Lock()
        self._broker_gone: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Return once the connection is over. Raises ExceptionGroup for bytes that are not Kafka's or a bad edit."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._read_client())
                self._tasks.create_task(self._write_broker())
                self._tasks.create_task(self._write_client())
        except* _Broken:
            pass
        finally:
            for writer in (self._client_writer, self._broker_writer):
                if writer is not None:
                    writer.transport.abort()

    async def _read_client(self) -> None:
        frames = FrameReader()
        while chunk := await _read(self._client_reader):
            for frame in frames.feed(chunk):
                await self._take(frame)
        await self._requests.put(None)

    async def _take(self, frame: bytes) -> None:
        header, now = request_header(frame), self._loop.time()
        self._client = header.client
        rule = self._rules.choose(header, self._broker, "request")
        answer: asyncio.Future[_Response | None] = self._loop.create_future()
        sending = _Sending(header, frame, now, answer)
        match rule.action if rule is not None else None:
            case Delay(seconds, overtaken):
                sending = _Sending(header, frame, now + seconds, answer)
                if overtaken:
                    self._asked.put_nowait(sending)
                    self._overtaken.add(self._tasks.create_task(self._send(sending)))
                    return
            case DeliverLate(seconds):
                assert rule is not None
                self._network.deliver(rule, self._broker, frame, seconds)
                raise _Broken
            case Duplicate():
                sending = _Sending(header, frame, now, answer, duplicated_by=rule)
            case Drop():
                raise _Broken
            case Answer() | None:
                pass
        self._asked.put_nowait(sending)
        await self._requests.put(sending)

    async def _write_broker(self) -> None:
        while (sending := await self._requests.get()) is not None:
            await self._send(sending)
        if self._overtaken:
            await asyncio.wait(self._overtaken)
        # A client's end, too, is news that a partition holds back.
        await self._network.passing(self._client, self._broker)
        if self._broker_writer is None:
            raise _Broken
        with contextlib.suppress(OSError):
            if self._broker_writer.can_write_eof():
                self._broker_writer.write_eof()
            else:
                # TLS has no half of an end.
                self._broker_writer.close()

    async def _send(self, sending: _Sending) -> None:
        await asyncio.sleep(sending.due - self._loop.time())
        await self._network.passing(self._client, self._broker)
        writer = await self._connected()
        self._unanswered.append(sending)
        with contextlib.suppress(OSError):  # whoever reads from the broker learns of it as well, after its last answer
            writer.write(framed(sending.frame))
            await writer.drain()
        if (rule := sending.duplicated_by) is not None:
            assert isinstance(rule.action, Duplicate)
            self._network.deliver(rule, self._broker, sending.frame, rule.action.seconds)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._broker_writer is None:
                try:
                    reader, self._broker_writer = await self._network.connect(self._broker)
                except OSError:
                    raise _Broken from None
                self._tasks.create_task(self._read_broker(reader))
        return self._broker_writer

    async def _read_broker(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        while chunk := await _read(reader):
            for frame in frames.feed(chunk):
                self._answered(_Response(frame, self._loop.time()))
        self._broker_gone.set_result(None)
        self._asked.put_nowait(None)

    def _answered(self, response: _Response) -> None:
        while self._unanswered:
            sending = self._unanswered.popleft()
            if sending.header.correlation == correlation_id(response.frame):
                sending.answer.set_result(response)
                return
            # Brokers answer in order: one that was passed over wants no answer (acks=0).
            sending.answer.set_result(None)
        raise ValueError("a response that answers no request")

    async def _write_client(self) -> None:
        while (sending := await self._asked.get()) is not None:
            await asyncio.wait((sending.answer, self._broker_gone), return_when=asyncio.FIRST_COMPLETED)
            if not sending.answer.done():
                break
            if (response := sending.answer.result()) is not None:
                await self._give(sending.header, response)
        await self._network.passing(self._client, self._broker)
        raise _Broken

    async def _give(self, header: Header, response: _Response) -> None:
        rule = self._rules.choose(header, self._broker, "response")
        frame, due = response.frame, response.came
        match rule.action if rule is not None else None:
            case Delay(seconds):
                due += seconds
            case Drop():
                raise _Broken
            case Answer(edit):
                frame = frame[:4] + edit(header, frame[4:])
            case DeliverLate() | Duplicate() | None:
                pass
        await asyncio.sleep(due - self._loop.time())
        await self._network.passing(self._client, self._broker)
        with contextlib.suppress(OSError):  # the client is gone: its requests count all the same
            self._client_writer.write(framed(frame))
            await self._client_writer.drain()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Some bytes; none at the end, or where the connection broke."""
    try:
        return await reader.read(2**16)
    except OSError:
        return b""
