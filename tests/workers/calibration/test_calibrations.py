"""Biases are made once, by whoever asks first, and are the same for all: on real brokers, from given shares."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.calibration import Calibration
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice, OutputRule
from guideway.schemas.request import GuidanceRef, Part, Request
from guideway.workers.calibration import calibrations
from guideway.workers.calibration.calibrations import Calibrations, Run
from guideway.workers.messages.from_engine import Branch, Finished, Generated

MODEL = "sha256:" + "1" * 64
LABELS = Choice(["good", "bad"])


def telling(share: float, asked: list[Request] | None = None) -> Run:
    """Answers that the first label has this share, whatever the text."""

    async def run(request: Request) -> Finished:
        if asked is not None:
            asked.append(request)
        await asyncio.sleep(0)
        parting = [
            Branch(labels=["good"], log_share=math.log(share)),
            Branch(labels=["bad"], log_share=math.log(1 - share)),
        ]
        one = Generated(text="good", finish_reason="stop", partings=[parting])
        return Finished(id="x", samples=[one], prompt_tokens=1, output_tokens=1)

    return run


class Workers:
    """An endpoint in the catalogue of a broker, and workers that read it."""

    def __init__(
        self, cluster: Cluster, name: str, stack: AsyncExitStack, make_request: Callable[..., Request]
    ) -> None:
        self.cluster, self.name = cluster, name
        self._stack, self._make_request = stack, make_request

    async def applied(self, calibration: Calibration | None, output: OutputRule = LABELS) -> int:
        endpoint = Endpoint(
            namespace=self.name, name="mood", model_size="small", output=output, calibration=calibration
        )
        async with CatalogueFollower(self.cluster) as reader:
            changes = plan_changes(reader.catalogue, [endpoint])
            await publish(self.cluster, changes)
        return changes[0].version

    async def worker(self, fingerprint: str = MODEL) -> tuple[Calibrations, CatalogueFollower]:
        reader = await self._stack.enter_async_context(CatalogueFollower(self.cluster))
        made = Calibrations(reader, self.cluster, fingerprint)
        self._stack.push_async_callback(made.stop)
        return made, reader

    def request(self, version: int, **fields: object) -> Request:
        own = {"namespace": self.name, "endpoint": "mood", "endpoint_version": version, "output": LABELS}
        return self._make_request("secret text", **{**own, "calibration": "contextual", **fields})

    def known(self, reader: CatalogueFollower) -> list[Calibrated]:
        identity = Identity("calibration", self.name, "mood")
        found = [reader.catalogue.get(identity, number) for number in reader.catalogue.versions(identity)]
        return [one for one in found if isinstance(one, Calibrated)]


@pytest.fixture
async def cluster(
    broker: RunningBroker, unique_name: str, make_request: Callable[..., Request]
) -> AsyncIterator[Workers]:
    await make_topics(broker.cluster, [*topics.catalogues([unique_name]), topics.CALIBRATIONS])
    async with AsyncExitStack() as stack:
        yield Workers(broker.cluster, unique_name, stack, make_request)


async def test_two_workers_that_begin_at_once_take_off_the_same(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    (one, reader), (other, _) = await cluster.worker(), await cluster.worker()
    request = cluster.request(version)
    found = await asyncio.gather(*(one.of(request, telling(0.9)) for _ in range(5)), other.of(request, telling(0.6)))
    assert all(biases == found[0] for biases in found)
    assert found[0]["good"] < found[0]["bad"]
    await reader.current()
    [entry] = cluster.known(reader)
    assert entry.by_label == found[0]
    assert (entry.endpoint_version, entry.model_fingerprint, entry.method) == (version, MODEL, "contextual")


async def test_it_is_made_once_and_not_of_the_callers_text(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual", around=["Review: ", "!"]))
    worker, _ = await cluster.worker()
    asked: list[Request] = []
    drawn = Generation(temperature=1.0, samples=4, stop=["x"], max_tokens=9)
    request = cluster.request(
        version,
        parts=[
            Part(kind="instruction", source="endpoint", text="Good or bad?"),
            Part(kind="input", source="caller", text="secret"),
        ],
        generation=drawn,
        deadline_ms=1,
    )
    first = await worker.of(request, telling(0.9, asked))
    number = len(asked)
    assert number == 20
    assert await worker.of(request, telling(0.1, asked)) == first
    later, _ = await cluster.worker()
    assert await later.of(request, telling(0.1, asked)) == first
    assert len(asked) == number
    for one in asked:
        assert one.parts[0] == request.parts[0]
        assert one.parts[-1].text.startswith("Review: ")
        assert one.parts[-1].text.endswith("!")
        assert "secret" not in str(one.parts)
        assert one.generation == Generation(max_tokens=9)
        assert one.deadline_ms is None


async def test_each_version_each_guidance_and_each_model_has_its_own(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    worker, reader = await cluster.worker()
    other_model, _ = await cluster.worker("sha256:" + "2" * 64)
    request = cluster.request(version)
    guided = msgspec.structs.replace(request, guidance=[GuidanceRef(namespace="a", name="b", version=1)])
    found = [
        await worker.of(request, telling(0.9)),
        await worker.of(guided, telling(0.8)),
        await other_model.of(request, telling(0.7)),
    ]
    newer = await cluster.applied(Calibration(method="unlabelled", texts=[f"text {i}" for i in range(8)]))
    found.append(await worker.of(cluster.request(newer, calibration="unlabelled"), telling(0.6)))
    gaps = [round(math.exp(biases["bad"] - biases["good"]), 4) for biases in found]
    assert gaps == [9, 4, 2.3333, 1.5]
    await reader.current()
    assert len(cluster.known(reader)) == 4
    assert await worker.of(request, telling(0.1)) == found[0], "requests under way have those of their version"


async def test_what_failed_leaves_no_mark_and_is_tried_again(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    worker, reader = await cluster.worker()

    def refusing(code: FailureCode, wanted: Callable[[str], bool]) -> Run:
        async def run(request: Request) -> Finished:
            if wanted(request.parts[-1].text):
                raise Refusal(code, "no")
            return await telling(0.9)(request)

        return run

    request = cluster.request(version)
    for code, which in ((FailureCode.GUIDANCE_MISSING, "good"), (FailureCode.TEXT_TOO_LONG, "")):
        with pytest.raises(Refusal) as caught:
            await worker.of(request, refusing(code, lambda text, which=which: which in text))  # type: ignore[misc]
        assert caught.value.code is code
    assert not cluster.known(reader)
    found = await worker.of(request, refusing(FailureCode.TEXT_TOO_LONG, lambda text: text.startswith("It is")))
    assert found == {"good": 0, "bad": 0}, "of one kind no text was left, so that the kinds agree on nothing"


async def test_whoever_asked_first_may_go_and_it_is_made_all_the_same(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    worker, _ = await cluster.worker()
    request = cluster.request(version)
    first = asyncio.create_task(worker.of(request, telling(0.9)))
    await asyncio.sleep(0)
    second = asyncio.create_task(worker.of(request, telling(0.5)))
    await asyncio.sleep(0.05)
    first.cancel()
    biases = await second
    assert biases["bad"] - biases["good"] == pytest.approx(math.log(9))


@pytest.mark.parametrize("calibration", [None, Calibration(method="contextual")])
async def test_without_a_calibration_nothing_is_made(cluster: Workers, calibration: Calibration | None) -> None:
    version = await cluster.applied(calibration)
    worker, _ = await cluster.worker()
    asked: list[Request] = []
    assert await worker.of(cluster.request(version, calibration=None), telling(0.9, asked)) == {}
    assert asked == []


async def test_of_a_version_that_is_gone_nothing_is_made(cluster: Workers) -> None:
    worker, _ = await cluster.worker()
    with pytest.raises(Refusal) as caught:
        await worker.of(cluster.request(7), telling(0.9))
    assert caught.value.code is FailureCode.UNKNOWN_ENDPOINT


async def test_many_endpoints_at_once_are_published_together(cluster: Workers) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    worker, reader = await cluster.worker()
    request = cluster.request(version)
    guided: Sequence[Request] = [
        msgspec.structs.replace(request, guidance=[GuidanceRef(namespace="a", name="b", version=number)])
        for number in range(1, 5)
    ]
    found = await asyncio.gather(*(worker.of(one, telling(0.5 + n / 10)) for n, one in enumerate(guided)))
    await reader.current()
    assert len(cluster.known(reader)) == len(guided)
    assert [round(one["good"], 9) for one in found] == sorted((round(one["good"], 9) for one in found), reverse=True)


async def test_what_cannot_be_published_is_not_computed_again_for_each_request(
    cluster: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await cluster.applied(Calibration(method="contextual"))
    worker, reader = await cluster.worker()
    asked: list[Request] = []

    async def refused(*_: object, **__: object) -> None:
        raise TopicAuthorizationFailedError

    with monkeypatch.context() as patched:
        patched.setattr(calibrations, "publish_planned", refused)
        patched.setattr(calibrations, "_TRIES", 1)
        for _ in range(3):
            with pytest.raises(Refusal, match="grant it Read or Write") as caught:
                await worker.of(cluster.request(version), telling(0.9, asked))
            assert caught.value.code is FailureCode.NOT_ALLOWED
    number = len(asked)
    assert number == 20
    biases = await worker.of(cluster.request(version), telling(0.1, asked))
    assert len(asked) == number
    assert [one.by_label for one in cluster.known(reader)] == [biases]
