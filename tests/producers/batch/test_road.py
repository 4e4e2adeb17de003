"""What goes out for a job, and what is read of what comes back."""

from __future__ import annotations

import msgspec
import pytest
from tests.producers.gateway.openai.made import reply

from guideway.delivery.replies import reply_records
from guideway.producers.batch.road import Way
from guideway.producers.batch.stored import RequestIds, SentRow
from guideway.producers.events.envelope import read_envelope, readable
from guideway.schemas.record import Record
from guideway.schemas.services.batch import BatchJob

JOB = BatchJob(
    id="batch-1", rows=1, pieces=1, index="0" * 64, secret="5e" * 16, submitted_ms=1, deadline_ms=2_000_000_000_000
)
ROW = SentRow(1, "r1", "/shop/mood", b'{"text":"a"}', "application/json")


def event() -> Record:
    _, value, headers = Way("shop", JOB, 2).event(0, ROW)
    topic = "gw.shop.batch-call.v1"
    return Record(topic=topic, partition=0, offset=0, timestamp_ms=1, key=None, value=value, headers=tuple(headers))


def answered(id_: str) -> list[tuple[str, bytes]]:
    """The headers of the reply to the row's event, as services write it."""
    address = readable(read_envelope(event()).reply_to)
    assert address is not None
    assert (address.topic, address.partition) == ("gw.shop.batch-replies.out.v1", 2)
    (out,) = reply_records(msgspec.structs.replace(reply("glad"), id=id_), [address], event())
    return [(name, value) for name, value in out.headers if value is not None]


@pytest.mark.parametrize(("job", "is_ours"), [("batch-1", True), ("batch-2", False), ("batch-11", False)])
def test_a_job_reads_the_replies_to_its_own_rows(job: str, is_ours: bool) -> None:
    assert Way("shop", JOB, 2).is_ours(answered(RequestIds(job, JOB.secret).of(0))) is is_ours


def test_the_id_of_the_event_is_the_one_that_is_waited_for() -> None:
    assert RequestIds(JOB.id, JOB.secret).row(read_envelope(event()).id) == 0
