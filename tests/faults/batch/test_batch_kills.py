"""A batch job under kills, a short one; `make batch-faults` runs 20,000 rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.faults.batch.ground import ENDPOINTS, found_in, text_of
from tests.faults.batch.kills import KINDS, plan, run
from tests.faults.fake_engine import answer_to
from tests.faults.kafka.cluster import NO_KAFKA, KafkaCluster


@pytest.mark.broker
@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason=NO_KAFKA)
async def test_each_id_is_in_the_output_once_though_everything_is_killed(tmp_path: Path) -> None:
    with KafkaCluster.up(tmp_path / "kafka", 1) as kafka:
        outcome = await run(tmp_path, kafka, rows=600, kills=5, seed=3)
    assert outcome.is_right, outcome
    assert {*outcome.kills} >= {*KINDS} - {"client"}


def test_each_kind_is_killed_and_the_seed_says_when() -> None:
    assert {one.kind for one in plan(5, seed=1)} == {*KINDS}
    assert plan(20, seed=1) == plan(20, seed=1) != plan(20, seed=2)


def test_the_verdict_sees_what_is_lost_doubled_and_wrong(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{number}", "endpoint": ENDPOINTS[number % 3], "samples": [{"value": answer_to(text_of(number))}]}
        for number in range(5)
    ]
    out = tmp_path / "out.jsonl"

    def found(*kept: int) -> tuple[list[str], list[str], int]:
        out.write_text("".join(json.dumps(rows[number]) + "\n" for number in kept))
        seen = found_in(out, 5)
        return seen.lost, seen.doubled, len(seen.wrong)

    assert found(0, 1, 2, 3, 4) == ([], [], 0)
    assert found(0, 1, 1, 3, 4) == (["r2"], ["r1"], 0)
    rows[4]["samples"] = [{"value": answer_to(text_of(3))}]
    assert found(0, 1, 2, 3, 4) == ([], [], 1)
