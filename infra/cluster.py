"""An admin client for the cluster, with errors that say what to change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import client_id

_PAUSE_S = 0.5
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_BROKER: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]):([0-9]{{1,5}})")


def brokers_in(bootstrap: str) -> str:
    """The list of brokers, `host:port,host:port`, without white space. Raises Refusal(invalid_setting) if it is none.

    A host is a name, an IPv4 address, or an IPv6 address in brackets.
    """
    found = [entry.strip() for entry in bootstrap.split(",")]
    for entry in found:
        broker = _BROKER.fullmatch(entry)
        if broker is None or not 1 <= int(broker[1]) <= 65535:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"KAFKA_BOOTSTRAP_SERVERS is {bootstrap!r}, and {entry!r} in it is no broker: write host:port, several "
                "with commas; a port is at most 65535, and an IPv6 address stands in brackets",
            )
    return ",".join(found)


@contextlib.asynccontextmanager
async def administrator(bootstrap: str, *, timeout_s: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client. Connecting is tried until `timeout_s` seconds are over.

    Raises Refusal: INVALID_SETTING for a bad address, BROKER_UNREACHABLE if there is no connection by then, or if it
    breaks inside the block.
    """
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, client_id=client_id("admin"), request_timeout_ms=int(timeout_s * 1000)
    )
    try:
        with _quiet():
            await _start(admin, bootstrap, timeout_s)
        yield admin
    except (KafkaError, TimeoutError) as error:
        raise Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"{bootstrap} was reached, but a broker of its cluster did not do what was asked ({error!r}): "
            "look at its log, and at its advertised.listeners if it runs elsewhere",
        ) from error
    finally:
        await admin.close()


async def _start(admin: AIOKafkaAdminClient, bootstrap: str, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await admin.start()
            return
        except ValueError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{bootstrap!r} is not a list of brokers: write host:port,host:port"
            ) from error
        except (KafkaError, OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() + _PAUSE_S > deadline:
                raise Refusal(
                    FailureCode.BROKER_UNREACHABLE,
                    f"no Kafka broker answers at {bootstrap} within {timeout_s:g} s: start one with "
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
