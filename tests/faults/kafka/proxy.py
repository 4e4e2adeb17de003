"""A proxy before Kafka brokers that breaks the network by rules, for one kind of request or for one client.

    cluster = KafkaCluster.up(folder, brokers=3, advertise=dict(enumerate(steady_ports(3), 1)))
    async with KafkaProxy.before(cluster) as proxy:
        rule = proxy.deliver_late(Api.END_TXN, 3.0, client="guideway-worker", count=1)
        ...
        await proxy.settled()
        assert rule.hits == 1

A rule stays in force until it has met `count` frames or is removed. Where several could meet a frame, the latest does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Final, NamedTuple

from tests.faults.kafka.cluster import KafkaCluster
from tests.faults.kafka.frames import (
    Action,
    Answer,
    Delay,
    DeliverLate,
    Direction,
    Drop,
    Duplicate,
    Edit,
    FrameReader,
    Rule,
    Rules,
    framed,
)
from tests.faults.kafka.link import Link

from guideway.infra.processes import HOST

ANSWER_TIMEOUT_S: Final = 30.0


class Tls(NamedTuple):
    """Where brokers speak TLS: the proxy ends it on both sides, for it has to see the requests."""

    to_clients: ssl.SSLContext
    to_brokers: ssl.SSLContext


class Split:
    """A part of the network through which no byte passes until it is healed."""

    def __init__(self, client: str, brokers: Collection[int] | None) -> None:
        self.client, self.brokers = client, brokers
        self.healed = asyncio.Event()

    def holds(self, client: str, broker: int) -> bool:
        """Whether it lies between these two."""
        return client.startswith(self.client) and (self.brokers is None or broker in self.brokers)


class KafkaProxy:
    """Listens for each broker on a port of 127.0.0.1, in the running event loop. Leaving it ends all connections."""

    def __init__(
        self, listen: Mapping[int, int], towards: Mapping[int, int], *, seed: int = 0, tls: Tls | None = None
    ) -> None:
        """`listen` and `towards` are ports by broker; `seed` is that of the rules' shares."""
        self._tls = tls
        self.rules = Rules(seed)
        self.ports = listen
        self._towards = towards
        self._splits: list[Split] = []
        self._servers: list[asyncio.Server] = []
        self._links: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    @classmethod
    def before(cls, cluster: KafkaCluster, *, seed: int = 0, tls: Tls | None = None) -> KafkaProxy:
        """The proxy whose ports the cluster advertises."""
        return cls(cluster.advertised_ports, cluster.client_ports, seed=seed, tls=tls)

    def delay(
        self,
        api: int | None,
        seconds: float,
        *,
        on: Direction = "request",
        overtaken: bool = False,
        client: str = "",
        brokers: Collection[int] | None = None,
        share: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Hold each request or response for `seconds`; what follows on its connection waits as well.

        With `overtaken`, later requests pass a held request on their way to the broker. Their answers still reach the
        client after its own, since clients count on that order.
        """
        return self._rule(Delay(seconds, overtaken), on, api, client, brokers, share, count)

    def deliver_late(
        self,
        api: int | None,
        seconds: float,
        *,
        client: str = "",
        brokers: Collection[int] | None = None,
        share: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Break the client's connection at once, and deliver the request after `seconds` over one of its own."""
        return self._rule(DeliverLate(seconds), "request", api, client, brokers, share, count)

    def duplicate(
        self,
        api: int | None,
        seconds: float = 0.0,
        *,
        client: str = "",
        brokers: Collection[int] | None = None,
        share: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Deliver the request, and once more `seconds` later over a connection of its own."""
        return self._rule(Duplicate(seconds), "request", api, client, brokers, share, count)

    def drop(
        self,
        api: int | None,
        *,
        on: Direction = "request",
        client: str = "",
        brokers: Collection[int] | None = None,
        share: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Swallow the request, or the response of one that was carried out, and break the client's connection."""
        return self._rule(Drop(), on, api, client, brokers, share, count)

    def answer(
        self,
        api: int,
        edit: Edit,
        *,
        client: str = "",
        brokers: Collection[int] | None = None,
        share: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Give clients what `edit` makes of the response; the request is carried out. See `offset_fetch_error`."""
        return self._rule(Answer(edit), "response", api, client, brokers, share, count)

    def remove(self, rule: Rule) -> None:
        """Take a rule away; harmless when repeated. What it holds already stays held."""
        self.rules.remove(rule)

    def partition(self, client: str = "", brokers: Collection[int] | None = None) -> Split:
        """Let nothing pass between clients whose id begins like this and these brokers; by default between all.

        Connections stay open and learn nothing, new ones included. What was sent before `heal` arrives after it, even
        from clients that are gone by then, as with TCP.
        """
        split = Split(client, brokers)
        self._splits.append(split)
        return split

    def heal(self, split: Split | None = None) -> None:
        """End this partition, or all."""
        for one in list(self._splits) if split is None else [split]:
            self._splits.remove(one)
            one.healed.set()

    async def passing(self, client: str, broker: int) -> None:
        """Return once no partition lies between the two."""
        while split := next((one for one in self._splits if one.holds(client, broker)), None):
            await split.healed.wait()

    async def settled(self) -> None:
        """Return once every late request and every duplicate so far was answered or lost."""
        if self._late:
            await asyncio.wait(self._late)

    def deliver(self, rule: Rule, broker: int, frame: bytes, seconds: float) -> None:
        """Send a request over a connection of its own after `seconds`, and note its answer with the rule."""
        task = asyncio.create_task(self._deliver(rule, broker, frame, seconds))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def connect(self, broker: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the broker itself. Raises OSError."""
        return await asyncio.open_connection(
            HOST, self._towards[broker], ssl=None if self._tls is None else self._tls.to_brokers
        )

    async def __aenter__(self) -> KafkaProxy:
        for broker, port in self.ports.items():
            accept = functools.partial(self._accept, broker)
            own = None if self._tls is None else self._tls.to_clients
            self._servers.append(await asyncio.start_server(accept, HOST, port, ssl=own))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ExceptionGroup if the proxy itself failed: the edit of an answer, or bytes that are not Kafka's."""
        for server in self._servers:
            server.close()
        tasks = self._links | self._late
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        if self._failures:
            raise ExceptionGroup("the proxy failed", self._failures)

    def _accept(self, broker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(Link(self, self.rules, broker, reader, writer).run())
        self._links.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._links.discard(task)
        if not task.cancelled() and isinstance(failure := task.exception(), Exception):
            self._failures.append(failure)

    def _rule(
        self,
        action: Action,
        on: Direction,
        api: int | None,
        client: str,
        brokers: Collection[int] | None,
        share: float,
        count: int | None,
    ) -> Rule:
        return self.rules.add(Rule(action, on, api, client, brokers, share, count))

    async def _deliver(self, rule: Rule, broker: int, frame: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await self.connect(broker)
                try:
                    writer.write(framed(frame))
                    frames = FrameReader()
                    while chunk := await reader.read(2**16):
                        if answers := frames.feed(chunk):
                            rule.answers += answers
                            return
                finally:
                    writer.transport.abort()
        rule.undelivered += 1
