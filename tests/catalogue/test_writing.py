"""What a writer of the catalogue is told when brokers refuse: the cause, and not that somebody else wrote."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import ProducerFenced

from guideway.catalogue import writing
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.writing import Overtaken, publish_planned
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.transaction_guards import OutcomeUnknown, TopicsRefused
from guideway.schemas.failures import FailureCode, Refusal

TOPIC = "gw.shop.catalogue.v1"


class Refusing:
    """A producer whose transactions end so."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def start(self) -> None: ...

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield
        raise self._error


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (TopicsRefused({TOPIC}), FailureCode.NOT_ALLOWED, f"it needs the rights to write the topic {TOPIC}"),
        (OutcomeUnknown(), FailureCode.BROKER_UNREACHABLE, "do not answer whether they have what is published"),
        (ProducerFenced(), FailureCode.INVALID_SETTING, "others publish at the same time"),
    ],
)
async def test_who_cannot_write_is_told_why(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: FailureCode, why: str
) -> None:
    async def none(*_: object) -> None: ...

    monkeypatch.setattr(writing, "make_producer", lambda *_args, **_more: Refusing(error))
    monkeypatch.setattr(writing, "discard", none)
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    reader: Any = SimpleNamespace(catalogue=Catalogue(), require=none, seen=none)
    entered: list[object] = []

    @asynccontextmanager
    async def sole_writer(cluster: Cluster, topics: Any, *, by: str = "") -> AsyncIterator[Any]:
        writer = writing._Writer(cluster, TOPIC, by)

        async def write(_changes: object) -> object:
            entered.append(writer)
            await writer.write([])
            raise AssertionError("it is not written")

        yield write

    async def planned(_catalogue: Catalogue) -> list[Any]:
        return []

    monkeypatch.setattr(writing, "sole_writer", sole_writer)
    with pytest.raises(Refusal, match=why) as refused:
        await publish_planned(Cluster("nowhere:1"), [TOPIC], planned, reader=reader)
    assert refused.value.code is code
    assert len(entered) == (1 if code is FailureCode.NOT_ALLOWED else writing._TRIES)
    assert issubclass(writing._Unsure, Overtaken)
