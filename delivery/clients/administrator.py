"""An admin client for the cluster, with errors that say what to change, and which topics it sees."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.look import Away, wrong_with
from guideway.delivery.connection.rights import refusal_for
from guideway.delivery.connection.trouble import Trouble
from guideway.delivery.guards import connection_guards
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.clients import client_id

_PAUSE_S = 0.5


@contextlib.asynccontextmanager
async def administrator(cluster: Cluster, *, timeout_s: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client. Connecting is tried until `timeout_s` seconds are over, unless no waiting mends it.

    Raises Refusal: INVALID_SETTING for a bad address, LOGIN_REFUSED where it is not let in, BROKER_UNREACHABLE if there
    is no connection by then, or if it breaks inside the block, NOT_ALLOWED for what it may not do there.
    """
    connection_guards.install()
    admin = AIOKafkaAdminClient(
        **cluster.client_settings(), client_id=client_id("admin"), request_timeout_ms=int(timeout_s * 1000)
    )
    try:
        with _quiet():
            await _start(admin, cluster, timeout_s)
        yield admin
    except (KafkaError, TimeoutError) as error:
        if (told := refusal_for(cluster, error)) is not None:
            raise told from error
        raise Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"{cluster} was reached, but a broker of its cluster did not do what was asked ({error!r}): "
            "look at its log, and at its advertised.listeners if it runs elsewhere",
        ) from error
    finally:
        await admin.close()


async def partitions_by_topic(admin: AIOKafkaAdminClient) -> dict[str, list[Any]]:
    """The topics of the cluster, each with its partitions as the broker describes them."""
    # Ask for all: a cluster that creates topics on demand would create those asked for by name.
    return {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics() if not topic["error_code"]}


async def _start(admin: AIOKafkaAdminClient, cluster: Cluster, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    looked = False
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await admin.start()
            return
        except ValueError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{cluster} is not a list of brokers: write host:port,host:port"
            ) from error
        except (KafkaError, OSError, TimeoutError) as error:
            if isinstance(error, Trouble):
                raise error.cause.refusal(cluster) from error
            # What a plain error does not tell is seen by looking, once there is somebody to look at.
            if not looked and not isinstance(seen := await asyncio.to_thread(wrong_with, cluster), Away):
                looked = True
                if seen is not None:
                    raise seen.refusal(cluster) from error
            if asyncio.get_running_loop().time() + _PAUSE_S > deadline:
                raise Refusal(
                    FailureCode.BROKER_UNREACHABLE,
                    f"no Kafka broker answers at {cluster} within {timeout_s:g} s: start one with "
                    "`guideway broker up`, or set KAFKA_BOOTSTRAP_SERVERS to a cluster that runs",
                ) from error
        await asyncio.sleep(_PAUSE_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """aiokafka logs each attempt to connect as an error; the refusal says it once."""
    log = logging.getLogger("aiokafka")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
