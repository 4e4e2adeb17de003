"""`guideway targets` on a cluster that denies everything by default: the rights that it is given are enough."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.producers.targets.kills import applied, delivered, published
from tests.producers.targets.receiver import answering, receiving
from tests.secured.cluster import SecuredCluster
from tests.secured.test_a_gateway import logged_in

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import DeliverySettings
from guideway.producers.targets.service import TargetsService, TargetsSettings
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.schemas.failures import FailureCode, Refusal
from guideway.usecases.rights.create import Wanted, create_namespace, create_services


@contextlib.asynccontextmanager
async def targets(cluster: Cluster, folder: Path) -> AsyncIterator[None]:
    settings = TargetsSettings(
        delivery=DeliverySettings(cluster=cluster),
        secrets=folder / "secrets",
        store=str(folder / "store"),
        gather_s=0.2,
        egress=egress_of("http://127.0.0.1:*"),
    )
    async with CatalogueFollower(cluster) as reader:
        service = TargetsService(settings, reader)
        running = asyncio.create_task(service.run())
        try:
            yield
        finally:
            service.stop()
            await running


async def test_results_leave_with_the_rights_of_the_service(
    secured: SecuredCluster, unique_name: str, tmp_path: Path
) -> None:
    admin, ns = secured.kafka.internal, unique_name
    SecretFiles(tmp_path / "secrets").create(ns, "crm")
    failed: list[str] = []

    async def once_too_early(post: object, writer: asyncio.StreamWriter) -> None:
        failed.append("first")
        await answering(500 if len(failed) == 1 else 204)(post, writer)  # type: ignore[arg-type]

    async with receiving(once_too_early) as receiver:
        await create_services(admin, None)
        await create_namespace(admin, Wanted(ns, (f"User:{ns}",)))
        await applied(admin, ns, receiver.port)
        # The steward does that.
        await create_namespace(admin, Wanted(ns))
        with capture_logs() as lines:
            async with targets(logged_in(secured, "gw-targets"), tmp_path):
                wanted = await published(logged_in(secured, "gw-worker"), ns, range(6))
                # One of them twice, over the topic of deliveries.
                await receiver.until(lambda posts: len(posts) == 7, 60)
                assert delivered(receiver.posts) == wanted
    assert len([*Archive(str(tmp_path / "store"), ns, "task").rows()]) == 6
    assert not [line for line in lines if "uthoriz" in str(line) or line["log_level"] == "error"]


async def test_who_has_no_right_is_told_which_is_missing(secured: SecuredCluster, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"shows no topic gw.public.catalogue.v1.* the right to read it") as raised:
        async with targets(logged_in(secured, "outsider"), tmp_path):
            pass
    assert raised.value.code is FailureCode.INVALID_SETTING
