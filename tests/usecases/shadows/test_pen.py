"""The pen writes the end of a long shadow at once, and the last who takes it has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from tests.usecases.shadows.conftest import Shop

from guideway.catalogue.writing import Overtaken
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.usecases.shadows.book import tombstones
from guideway.usecases.shadows.pen import sole_pen

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]
ROWS = 100


async def test_all_records_are_on_their_way_before_one_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_topics(shop.cluster, topics.shadows(shop.namespace))
    plain, sent, most = AIOKafkaProducer.send, list[asyncio.Future[Any]](), 0

    async def send(*given: Any, **named: Any) -> asyncio.Future[Any]:
        nonlocal most
        sent.append(await plain(*given, **named))
        most = max(most, sum(not one.done() for one in sent))
        return sent[-1]

    monkeypatch.setattr(AIOKafkaProducer, "send", send)
    async with sole_pen(shop.cluster, shop.namespace) as pen:
        offset = await pen.write(tombstones([f"mood/x/{number}".encode() for number in range(ROWS)]))
    assert (len(sent), offset) == (ROWS, sent[-1].result().offset)
    assert most > ROWS / 2, "one by one they would take longer than a transaction may"


async def test_whoever_takes_the_pen_takes_it_from_whoever_has_it(shop: Shop) -> None:
    await make_topics(shop.cluster, topics.shadows(shop.namespace))
    async with sole_pen(shop.cluster, shop.namespace) as first, sole_pen(shop.cluster, shop.namespace) as second:
        assert await second.write([(b"mood", None)]) >= 0
        with pytest.raises(Overtaken):
            await first.write([(b"mood", None)])
