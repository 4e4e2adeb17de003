"""What `send` and `tail` print of a reply."""

from __future__ import annotations

import json

import pytest

from guideway.cli.traffic import print_reply
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Completed, FailedSample, Sample, Usage

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
