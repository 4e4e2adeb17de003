"""`guideway demo`: the main job on real input, from a broker to typed results, and what one micro-batch held."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import typer
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import guideway
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.cli.console import interrupts
from guideway.cli.console.output import err, out, print_json
from guideway.cli.demo.plan import AgainstBare, DemoPlan, Question
from guideway.cli.demo.report import Report, Score, Speed, Told, tell, tell_json
from guideway.cli.demo.sets import SideBySide, make_fact_sets
from guideway.infra import local_broker
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests
from guideway.workers.messages.from_engine import BatchReport

EXAMPLES = Path(guideway.__file__).resolve().parents[2] / "examples"
_NEWS_S: Final = 30.0
"""Without news for so long, what the worker says is told: a slow machine takes minutes to convert the model."""
_LONGEST_S: Final = 3600.0
"""To wait for a reply, while both processes are there."""


def agree(settings: Settings, *, yes: bool) -> None:
    """Ask before anything is written to a cluster that is not the demo's own.

    Raises Refusal(invalid_setting) where nobody can be asked, or says no.
    """
    if settings.named is None or yes:
        return
    what = "creates topics, applies endpoints of the namespaces reviews, library and public, and sends events"
    question = f"The demo {what} on the cluster {settings.cluster()}. Go on?"
    if not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the demo {what}: unset KAFKA_BOOTSTRAP_SERVERS for a broker of its own, or say --yes",
        )


async def run_demo(settings: Settings, *, as_json: bool, keep: bool) -> int:
    """Everything on this machine, started and (unless `keep`) ended here. Returns the exit code."""
    if not EXAMPLES.is_dir():
        raise Refusal(FailureCode.INVALID_SETTING, "the demo needs the examples folder: run it from a checkout")
    plan = msgspec.convert(yaml.safe_load((EXAMPLES / "demo" / "plan.yaml").read_text()), DemoPlan)
    ours = settings.named is None and local_broker.status(settings.broker_folder) is None
    broker = local_broker.up(settings.broker_folder, progress=_say)
    interrupts.keeps("nothing of the demo is kept; start it again")
    if ours:
        interrupts.at_the_end(lambda: local_broker.down(settings.broker_folder, patience_s=0))
    _say(f"broker: {broker.kind} at {broker.bootstrap}")
    try:
        made = await make_fact_sets(settings, plan.sets, EXAMPLES / "data")
        _say(f"retrieval sets: {', '.join(f'{one.set} ({one.passages})' for one in made)}")
        manifests = [*read_manifests(EXAMPLES / "demo" / "manifests"), *read_manifests(EXAMPLES / "demo" / "asking")]
        changes = await apply_manifests(settings, manifests)
        _say(f"catalogue: {len(changes)} entries, {sum(one.action != 'unchanged' for one in changes)} new or changed")
        batches = settings.home / "demo-batches.jsonl"
        batches.unlink(missing_ok=True)
        async with _running(settings, batches, keep=keep) as processes, Client(broker.cluster) as client:
            _say("loading the frozen model (the first time it is converted, which takes half a minute)")
            shown = await processes.watch(_show(client, plan.questions, as_json=as_json))
            _say(f"{len(shown)} questions answered; now the same questions from other facts, and {_rows_of(plan)} rows")
            asked = await processes.watch(_ask(client, plan.side_by_side))
            began = time.monotonic()
            compared = await processes.watch(_compare(client, plan.comparisons, quiet=as_json))
            took_s = time.monotonic() - began
    finally:
        if ours and (not keep or interrupts.asked()):
            local_broker.down(settings.broker_folder, patience_s=1 if interrupts.asked() else 30)
    recorded = [msgspec.json.decode(line, type=BatchReport) for line in _lines(batches)]
    answered = [*(answers for _, answers in asked), *compared.values()]
    replies = [*shown, *(told for answers in answered for told in answers)]
    scores = [_score(one, compared) for one in plan.comparisons]
    report = Report(scores=scores, speed=_speed(compared, took_s), shown=shown, asked=asked, batches=recorded)
    tell_json(report) if as_json else tell(report)
    wrong = [told for told in replies if not isinstance(told.reply, Completed)]
    if not as_json:
        _what_next(keep)
    return 1 if wrong else 0


# Processes -----------------------------------------------------------------------------------------------------------


class _Processes:
    """The endpoint service and the worker, each a process with a log."""

    def __init__(self, processes: dict[Path, asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def watch(self, work: Any) -> Any:
        """Do the work; should a process end meanwhile, say why instead of waiting for what cannot come."""
        working = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(one.wait()): log for log, one in self._processes.items()}
        while not (await asyncio.wait([working, *ends], return_when="FIRST_COMPLETED", timeout=_NEWS_S))[0]:
            for log in self._processes:
                _say(f"still at it; {log.stem}: {_last(log)}")
        for end, log in ends.items():
            if end.done() and not working.done():
                working.cancel()
                raise Refusal(FailureCode.ENGINE_FAILED, f"{log.stem} ended ({_last(log)}); its log is {log}")
            end.cancel()
        return await working


def _last(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"])[-1]


@contextlib.asynccontextmanager
async def _running(settings: Settings, batches: Path, *, keep: bool) -> Any:
    commands = {"endpoints": ["endpoints"], "worker": ["worker", "--record-batches", str(batches)]}
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes = {}
    for name, command in commands.items():
        log = logs / f"{name}.log"
        with log.open("wb") as file:
            # In groups of their own, so that Ctrl-C reaches them once, through us.
            processes[log] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "guideway",
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=keep,
                process_group=None if keep else 0,
            )
    if not keep:
        for process in processes.values():
            interrupts.at_the_end(process.kill)
    try:
        yield _Processes(processes)
    finally:
        if not keep or interrupts.asked():
            await _end(processes.values())


async def _end(processes: Collection[asyncio.subprocess.Process]) -> None:
    """Each ends its work; at an interruption within seconds."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT if interrupts.asked() else signal.SIGTERM)
    await asyncio.gather(*(process.wait() for process in processes))


# Work ----------------------------------------------------------------------------------------------------------------


async def _tell(client: Client, endpoint: str, text: str, began: float) -> Told:
    try:
        reply = await client.submit(endpoint, text, timeout_s=_LONGEST_S)
    except TimeoutError:
        raise Refusal(
            FailureCode.DEADLINE_EXCEEDED,
            f"no reply within {_LONGEST_S:g} s: the logs of the endpoint service and the worker say what they do",
        ) from None
    return Told(endpoint, text, reply, time.monotonic() - began)


async def _show(client: Client, questions: Sequence[Question], *, as_json: bool) -> list[Told]:
    """All questions at once, in their order; as JSON each is printed as its answer arrives."""
    began = time.monotonic()

    async def one(question: Question) -> Told:
        told = await _tell(client, question.endpoint, question.text, began)
        if as_json:
            print_json({"event": "reply", "endpoint": told.endpoint, "input": told.text, "reply": told.reply})
        return told

    return await asyncio.gather(*map(one, questions))


async def _ask(client: Client, sides: Sequence[SideBySide]) -> list[tuple[SideBySide, list[Told]]]:
    """Every question to every one of its endpoints, all at once; answers question by question."""
    began = time.monotonic()

    async def answers(one: SideBySide) -> list[Told]:
        asked = [(endpoint, text) for text in one.questions for endpoint in one.endpoints]
        return await asyncio.gather(*(_tell(client, endpoint, text, began) for endpoint, text in asked))

    return [*zip(sides, await asyncio.gather(*map(answers, sides)), strict=True)]


async def _compare(client: Client, comparisons: Sequence[AgainstBare], *, quiet: bool) -> dict[str, list[Told]]:
    """The labelled rows of all comparisons through both endpoints, all at once; answers by endpoint, in row order."""
    sources = {
        endpoint: comparison.data for comparison in comparisons for endpoint in (comparison.guided, comparison.bare)
    }
    rows = [(endpoint, row["text"]) for endpoint, data in sources.items() for row in _rows(data)]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    began = time.monotonic()
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        bar = progress.add_task("evaluation rows", total=len(rows))

        async def one(endpoint: str, text: str) -> Told:
            told = await _tell(client, endpoint, text, began)
            progress.advance(bar)
            return told

        answers = await asyncio.gather(*(one(endpoint, text) for endpoint, text in rows))
    by_endpoint: dict[str, list[Told]] = {}
    for told in answers:
        by_endpoint.setdefault(told.endpoint, []).append(told)
    return by_endpoint


def _rows(name: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / "data" / name).read_text(encoding="utf-8").strip().split("\n")
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]


# Figures -------------------------------------------------------------------------------------------------------------


def _rows_of(plan: DemoPlan) -> int:
    sources = {endpoint: one.data for one in plan.comparisons for endpoint in (one.guided, one.bare)}
    return sum(len(_rows(data)) for data in sources.values())


def _score(one: AgainstBare, compared: dict[str, list[Told]]) -> Score:
    return Score(
        name=one.name,
        rows=len(_rows(one.data)),
        guided=_accuracy(compared[one.guided], one.data),
        bare=_accuracy(compared[one.bare], one.data),
    )


def _speed(compared: dict[str, list[Told]], took_s: float) -> Speed:
    usages = [
        told.reply.usage for answers in compared.values() for told in answers if isinstance(told.reply, Completed)
    ]
    return Speed(
        requests=len(usages),
        seconds=round(took_s, 1),
        requests_per_s=round(len(usages) / took_s, 1),
        prompt_tokens_per_s=round(sum(usage.prompt_tokens for usage in usages) / took_s),
        output_tokens_per_s=round(sum(usage.output_tokens for usage in usages) / took_s),
    )


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []


def _accuracy(answers: Sequence[Told], data: str) -> float:
    labels = [row["label"] for row in _rows(data)]
    right = sum(
        isinstance(told.reply, Completed) and bool(told.reply.value == label)
        for told, label in zip(answers, labels, strict=True)
    )
    return right / len(labels)


def _what_next(keep: bool) -> None:
    first = "" if keep else "guideway demo --keep       # leave everything running, then:\n  "
    out.print(
        f"\nNext:\n  {first}guideway send /public/fact-yes-no 'Is the Moon made of cheese?'\n"
        "  guideway get               # what the catalogue holds\n"
        "  guideway tail /reviews/sentiment\n"
        "  examples/demo/manifests/   # change one, `guideway apply -f` it, send again\n",
    )


def _say(line: str) -> None:
    err.print(line)
