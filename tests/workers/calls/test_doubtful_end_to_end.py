"""On a broker, an event with a doubtful answer is answered, and people get the same reply once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ONE_OF_KINDS
from tests.workers.end_to_end import end_to_end_of

from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.topics import reply_topic
from guideway.schemas.output import Below, Choice, DoubtfulTarget
from guideway.schemas.reply import Completed, Failed


@pytest.mark.broker
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_doubtful_ones_go_where_the_endpoint_says(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> None:
    def endpoint(name: str, below: Below) -> Endpoint:
        rule = Choice(["good", "bad"], probabilities=True, min_confidence=0.8, below=below)
        return Endpoint(namespace=unique_name, name=name, model_size=unique_name, output=rule, calibration="off")

    kinds = {"shown": DoubtfulTarget("task"), "refused": "failed", "empty": None}
    made = [endpoint(name, below) for name, below in kinds.items()]  # type: ignore[arg-type]
    async with end_to_end_of(broker_of_kind(kind).cluster, unique_name, tmp_path, more=made) as system, system.worker():

        async def told(name: str, sure: str) -> Completed | Failed:
            return await system.client.submit(f"/{unique_name}/{name}", sure, request_id=f"{name}-{sure}", timeout_s=60)

        wanted = [(name, sure) for name in kinds for sure in ("0.9", "0.7")]
        replies = dict(zip(wanted, await asyncio.gather(*(told(*one) for one in wanted)), strict=True))
        for name in kinds:
            certain = replies[name, "0.9"]
            assert isinstance(certain, Completed)
            assert (certain.value, certain.samples[0].doubtful) == ("good", False)
        refused, empty, shown = (replies[name, "0.7"] for name in ("refused", "empty", "shown"))
        assert isinstance(refused, Failed)
        assert refused.code is FailureCode.NOT_CONFIDENT
        assert isinstance(empty, Completed)
        assert (empty.value, empty.samples[0].text, empty.samples[0].doubtful) == (None, "good", True)
        assert isinstance(shown, Completed)
        assert (shown.value, shown.samples[0].doubtful) == ("good", True)
        assert await system.all_replies(reply_topic(unique_name, "task")) == [shown]
