"""What `send` and `tail` print of a reply."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest

from guideway.cli.traffic import print_received, print_reply
from guideway.producers.client.reply_reader import no_endpoint
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import event_topic, reply_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed, FailedSample, Sample, Usage

REPLY = Completed(
    id="a",
    namespace="team",
    endpoint="task",
    endpoint_version=1,
    samples=[Sample(value=7, text="7", finish_reason="stop")],
    usage=Usage(prompt_tokens=1, output_tokens=9),
    guidance=[],
    model_fingerprint="f",
    failed_samples=[FailedSample(sample=1, code=FailureCode.OUTPUT_INCOMPLETE, message="8 tokens were not enough")],
)


def test_samples_that_failed_are_told_beside_those_that_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_reply(REPLY, as_json=False)
    shown = capsys.readouterr()
    assert shown.out == "7\n"
    assert shown.err == "output_incomplete: sample 1: 8 tokens were not enough\n"
    print_reply(REPLY, as_json=True)
    assert json.loads(capsys.readouterr().out)["failed_samples"][0]["sample"] == 1


def test_a_text_that_max_tokens_cut_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    cut = Sample(value="The story of King A", text="The story of King A", finish_reason="length")
    reply = msgspec.structs.replace(REPLY, samples=[cut], failed_samples=None)
    print_reply(reply, as_json=False)
    assert capsys.readouterr() == (
        "The story of King A\n",
        "the text is cut at generation.max_tokens\n",
    )
    print_reply(reply, as_json=False, line=7)
    assert "line 7: the text is cut" in capsys.readouterr().err


FAILED = Failed(
    id="b", namespace="team", endpoint="task", code=FailureCode.MISSING_FIELD, message="no\nfield", retryable=False
)


def received(key: bytes | None) -> Record:
    return Record(topic="t", partition=0, offset=7, timestamp_ms=1_700_000_000_000, key=key, value=b"")


def test_of_several_events_each_result_stands_behind_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it, nobody knows whose result is whose once one has failed."""
    story = msgspec.structs.replace(
        REPLY, failed_samples=None, samples=[Sample(value="a\nb", text="", finish_reason="stop")]
    )
    print_reply(story, as_json=False, line=3)
    print_reply(FAILED, as_json=False, line=4)
    print_reply(story, as_json=True, line=3)
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()
    assert first == "3\ta\\nb"
    assert (json.loads(second)["line"], json.loads(second)["id"]) == (3, "a")
    assert shown.err == "missing_field: line 4: no\nfield\n"


def test_followed_replies_have_time_id_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    print_received(received(b"customer-7"), REPLY, as_json=False)
    print_received(received(None), FAILED, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "2023-11-14 22:13:20Z  a  customer-7  7",
        "2023-11-14 22:13:20Z  a  customer-7  output_incomplete: sample 1: 8 tokens were not enough",
        "2023-11-14 22:13:20Z  b  -  missing_field: no\\nfield",
    ]
    print_received(received(b"\xff\x1b"), FAILED, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["time"], told["id"], told["code"]) == ("2023-11-14 22:13:20Z", "b", "missing_field")
    assert told["key"] == "\\xff\x1b"


def test_a_reply_without_a_result_says_why_whatever_is_asked_of_it() -> None:
    for name in ("value", "samples", "usage", "citations"):
        with pytest.raises(Refusal, match="field"):
            getattr(FAILED, name)
    assert str(FAILED) == "no result of /team/task (missing_field: no\nfield)"


@pytest.mark.parametrize("code", ["await asyncio.sleep(60)", "[print_json(1) or await asyncio.sleep(0) for _ in 'x']"])
def test_following_ends_when_nobody_reads_any_more(code: str) -> None:
    """`guideway tail … | head -1` had stood there until the next reply came, and then complained."""
    reading, writing = os.pipe()
    program = (
        "import asyncio\nfrom guideway.cli.console.output import print_json, run, while_heard\n"
        f"async def work():\n    {code}\n    await asyncio.sleep(60)\nrun(while_heard(work()))"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    assert child.communicate(timeout=30)[1] == b""
    assert child.returncode == 0


def test_a_wrong_address_is_told_with_the_right_one() -> None:
    topics = [event_topic("public", "fact-yes-no"), reply_topic("public", "fact-yes-no"), "other"]
    told = no_endpoint("/publik/fact-yesno", "gw.publik.fact-yesno.in.v1", topics)
    assert "did you mean /public/fact-yes-no?" in told.message
    assert "did you mean" not in no_endpoint("/zz/q", "gw.zz.q.in.v1", topics).message
    assert "has none at all" in no_endpoint("/zz/q", "gw.zz.q.in.v1", ["other"]).message
