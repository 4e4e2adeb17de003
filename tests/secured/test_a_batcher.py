"""A batcher on a cluster that denies everything by default: it needs the rights that it is given, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.producers.batch.stand_in import answering, batcher, end_of, lines, rows
from tests.secured.cluster import SecuredCluster
from tests.secured.test_a_gateway import logged_in

from guideway.producers.batch.jobs import Jobs, Wanted
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import ENDPOINTS_GROUP
from guideway.usecases.rights.create import Wanted as WantedSpace
from guideway.usecases.rights.create import create_namespace, create_services


async def test_a_team_submits_and_a_batcher_answers_each_with_its_own_rights(
    secured_alone: SecuredCluster, unique_name: str, tmp_path: Path
) -> None:
    admin, ns = secured_alone.kafka.internal, unique_name
    secured_alone.add_principal(ns)
    secured_alone.add_principal(f"{ns}-other")
    await create_services(admin, None)
    await create_namespace(admin, WantedSpace(ns, (f"User:{ns}",)))
    team, other = (Jobs(logged_in(secured_alone, one), str(tmp_path)) for one in (ns, f"{ns}-other"))
    services = answering(logged_in(secured_alone, "gw-endpoints"), ns, group=ENDPOINTS_GROUP, make=False)
    async with services, batcher(logged_in(secured_alone, "gw-batcher"), tmp_path):
        job = await team.submit(ns, rows([f"text {n}" for n in range(700)], ns), Wanted())
        ended = await end_of(team, ns, job)
        late = await team.submit(ns, rows(["a", "!wait"], ns), Wanted())
        await team.cancel(ns, late.id)
        assert (await end_of(team, ns, late)).state == "cancelled"
    assert len(lines(team, ns, ended)[0]) == 700
    assert [one.state for one in await team.list(ns)] == ["done", "cancelled"]
    with pytest.raises(Refusal) as refused:
        await other.submit(ns, rows(["a"], ns), Wanted())
    assert refused.value.code in (FailureCode.NOT_ALLOWED, FailureCode.BROKER_UNREACHABLE)
    assert not await other.list(ns)
