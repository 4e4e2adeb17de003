"""What the demo says, at 80 columns: what one sees, then its accuracy, then the rest."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from guideway.cli.console.output import out
from guideway.cli.demo.report import Report, Score, Speed, Told, tell
from guideway.cli.demo.sets import SideBySide
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Completed, Failed, Reply, Sample, Usage
from guideway.schemas.retrieval import Citation
from guideway.workers.messages.from_engine import BatchReport, RowReport


def completed(value: object, *, cites: bool = False) -> Completed:
    cited = Citation(set="library/medieval", version=1, id="medieval.md#3", score=0.53)
    return Completed(
        id="r",
        namespace="public",
        endpoint="e",
        endpoint_version=1,
        samples=[Sample(value=value, text=str(value), finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:0",
        citations=[cited] if cites else None,
    )


def told(endpoint: str, reply: Reply) -> Told:
    return Told(endpoint, "Is the Earth round? \x1b[2J", reply, 0.1)


def test_the_demo_is_read_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(out, "_file", written)
    monkeypatch.setattr(out, "_force_terminal", True)
    monkeypatch.setattr(out, "_color_system", None)
    monkeypatch.setattr(out, "_width", 80)
    failed = Failed(
        id="r",
        namespace="public",
        endpoint="e",
        code=FailureCode.OUTPUT_INCOMPLETE,
        message="32 tokens were not enough for the answer: raise max_tokens of the endpoint",
        retryable=False,
    )
    rows = [
        RowReport(request_id="r", namespace="reviews", endpoint="sentiment-both", guidance=["soft_prompt a/b@1"] * 3)
    ]
    tell(
        Report(
            scores=[Score(name="sentiment by soft prompt and LoRA", rows=40, guided=0.95, bare=0.675)],
            speed=Speed(requests=200, seconds=14.9, requests_per_s=9, prompt_tokens_per_s=663, output_tokens_per_s=1),
            shown=[
                told("/public/fact-yes-no", completed(True)),
                told("/public/fact-for-children", completed("is " * 99)),
            ],
            asked=[
                (
                    SideBySide(endpoints=["/public/told-a", "/public/told-b"], questions=["?"], columns=["a", "b"]),
                    [told("/public/told-a", completed("no")), told("/public/told-b", failed)],
                ),
                (
                    SideBySide(endpoints=["/public/ask-medieval", "/public/ask-plain"], questions=["?"]),
                    [
                        told("/public/ask-medieval", completed("no " * 99, cites=True)),
                        told("/public/ask-plain", failed),
                    ],
                ),
            ],
            batches=[BatchReport(step=7, rows=rows)],
        )
    )
    lines = written.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert lines[1:3] == ["guideway demo", "6 endpoints of 1 teams share one frozen model, SmolLM2-135M, from a queue."]
    first = next(number for number, line in enumerate(lines) if "95%" in line)
    assert first < 9
    assert all(number < 3 or number > first for number, line in enumerate(lines) if "/public/" in line)
    assert "\x1b[2J" not in written.getvalue()
