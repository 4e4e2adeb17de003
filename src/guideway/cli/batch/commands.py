"""`guideway batch run | submit | status | list | cancel | results | delete` and `guideway batcher`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from guideway.cli.batch import options
from guideway.cli.batch.progress import Watch, failures, tokens, told
from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, err, in_red, out, print_json, print_table, run
from guideway.cli.console.services import Restart, begin_service, run_service, until_signalled
from guideway.producers.batch.jobs import Job
from guideway.settings import Settings
from guideway.usecases.batch.jobs import batcher as make_batcher
from guideway.usecases.batch.jobs import deleted, has_batcher, job_named, jobs_of, standing_by, watched
from guideway.usecases.batch.results import form_of, require_free, write
from guideway.usecases.batch.submit import Asked, Progress, Stage, Submitted, submit

JobName = Annotated[str, typer.Argument(metavar="NAMESPACE/JOB", help="As `guideway batch list` has it.")]
_EXIT: Final = {"done": 0, "failed": 1, "expired": 1, "cancelled": 130}
_NO_BATCHER: Final = "nobody carries out batch jobs on this cluster yet: start `guideway batcher`"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="A file of rows, answered behind everybody else's requests.", no_args_is_help=True)
    group.command("run")(run_)
    group.command("submit")(submit_)
    group.command("status")(status)
    group.command("list")(list_)
    group.command("cancel")(cancel)
    group.command("results")(results)
    group.command("delete")(delete)
    app.add_typer(group, name="batch")
    app.command("batcher")(batcher)


@options.taking_a_file
def run_(
    file: options.FileOptions,
    to: Annotated[Path, typer.Option("-o", "--out", help="Where the results go: .jsonl or .parquet.")],
    as_json: AsJson = False,
) -> None:
    """Answer all rows of a file, and write results and failures. Run again after an interruption: it goes on.

    guideway batch run reviews.csv --endpoint /shop/mood --map text=body -o moods.jsonl

    Where no `guideway batcher` runs, this command is one for as long as it runs. Exit code 1 if the job failed or its
    deadline came, 130 if it was cancelled.
    """
    settings = Settings.from_environ()
    require_free(to)
    asked = file.asked(output=form_of(to), out=to)
    job = run(_run(settings, asked, as_json=as_json))
    assert job.ended is not None, "watching ends with the job"
    if not job.ended.output:
        err.print(in_red(job.ended.code, job.ended.message))
        raise typer.Exit(_EXIT[job.ended.outcome])
    written = write(settings, job, to)
    if as_json:
        print_json(told(job) | {"out": written.out, "errors": written.errors})
    else:
        _say_ended(job)
        out.print(f"results: {written.out}")
        if written.errors:
            out.print(f"failures: {written.errors}")
    raise typer.Exit(_EXIT[job.ended.outcome])


async def _run(settings: Settings, asked: Asked, *, as_json: bool) -> Job:
    found = await submit(settings, asked, resume=True, progress=_of_file(as_json=as_json))
    name = f"{found.job.namespace}/{found.job.job.id}"
    interrupts.keeps(
        f"batch job {name} is kept: the same command goes on with it; `guideway batch cancel {name}` ends it"
    )
    if not as_json:
        err.print(_begun(found, name))
    async with standing_by(settings, found.job.namespace, err.print) as standby:
        said, last = as_json, found.job
        with Watch(as_json=as_json) as show:
            async for last in watched(settings, found.job.namespace, found.job.job.id):
                if last.progress is not None:
                    standby.heard()
                if standby.is_needed and not said:
                    said = True
                    err.print("nobody else carries out batch jobs here, so this command does while it runs")
                show(last)
        return last


def _begun(found: Submitted, name: str) -> str:
    rows = f"{found.job.job.rows:,} rows"
    if found.job.ended is not None:
        return f"batch job {name} has answered this file, and its results were not written yet: {rows}"
    return f"batch job {name}: {rows}" if found.is_new else f"goes on with batch job {name}: {rows}"


@options.taking_a_file
def submit_(
    file: options.FileOptions,
    parquet: options.Parquet = False,
    as_json: AsJson = False,
) -> None:
    """Have batchers answer all rows of a file, and do not wait for it. The file is needed no more afterwards."""
    settings = Settings.from_environ()
    asked = file.asked(output="parquet" if parquet else "jsonl")

    async def work() -> tuple[Job, bool]:
        found = await submit(settings, asked, progress=_of_file(as_json=as_json))
        return found.job, await has_batcher(settings)

    job, is_served = run(work())
    name = f"{job.namespace}/{job.job.id}"
    if as_json:
        print_json(told(job))
    else:
        out.print(name)
        err.print(f"{job.job.rows:,} rows\nNext:  guideway batch status {name}")
    if not is_served:
        err.print(_NO_BATCHER)


def status(
    job: JobName,
    watch: Annotated[bool, typer.Option("--watch", help="Until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a job is, what it has cost, and what failed."""
    settings = Settings.from_environ()
    namespace, id_ = job_named(job)

    async def work() -> Job:
        if not watch:
            one = await jobs_of(settings).job(namespace, id_)
            if one.state in ("waiting", "cancelling") and not await has_batcher(settings):
                err.print(_NO_BATCHER)
            return one
        last: Job | None = None
        with Watch(as_json=as_json) as show:
            async for one in watched(settings, namespace, id_):
                last = one
                show(one)
        assert last is not None, "watching begins with the job"
        return last

    found = run(work())
    if not as_json:
        _say_ended(found)
    elif not watch:
        print_json(told(found))


def list_(
    namespace: Annotated[str, typer.Argument(help="Whose jobs.")],
    as_json: AsJson = False,
) -> None:
    """List the batch jobs of a namespace of the last thirty days, the latest last."""
    found = run(jobs_of(Settings.from_environ()).list(namespace))
    if as_json:
        for one in found:
            print_json(told(one))
    elif not found:
        out.print(f"namespace {namespace} has no batch jobs")
    else:
        heads = ("job", "state", "rows", "completed", "failed", "submitted", "file")
        print_table(heads, [_row(one) for one in found])


def cancel(job: JobName, as_json: AsJson = False) -> None:
    """End a job with the results that it has. What is under way is cancelled, what is not sent is not sent."""
    namespace, id_ = job_named(job)
    found = run(jobs_of(Settings.from_environ()).cancel(namespace, id_))
    if as_json:
        print_json({"job": job, "was": found.state})
    else:
        out.print(f"{job} is to end\nNext:  guideway batch status {job} --watch")


def results(
    job: JobName,
    to: Annotated[Path, typer.Option("-o", "--out", help="Where the results go: .jsonl or .parquet.")],
    as_json: AsJson = False,
) -> None:
    """Write the results of a job that has ended; its failures go into a file beside."""
    settings = Settings.from_environ()
    require_free(to)
    written = write(settings, run(jobs_of(settings).job(*job_named(job))), to)
    if as_json:
        print_json(written)
    else:
        out.print(f"results: {written.out}")
        if written.errors:
            out.print(f"failures: {written.errors}")


def delete(job: JobName, as_json: AsJson = False) -> None:
    """Remove the results of a job that has ended from the store. It is not listed any more."""
    settings = Settings.from_environ()
    namespace, id_ = job_named(job)
    found = run(deleted(settings, namespace, id_))
    if as_json:
        print_json({"job": job, "was": found.state})
    else:
        out.print(f"{job} is deleted")


def batcher(
    namespace: Annotated[str | None, typer.Option(help="Take the jobs of this namespace only.")] = None,
    restart: Restart = True,
) -> None:
    """Run a batcher: it sends the rows of batch jobs and collects what is answered. Any number may run."""
    settings = begin_service(restart=restart)
    interrupts.keeps("jobs that have not ended stay in their topics, for the next batcher")

    async def work() -> None:
        made = make_batcher(settings, namespace=namespace)
        await until_signalled(made.run, made.stop)

    run_service(settings, work())


def _of_file(*, as_json: bool) -> Progress:
    """Says on a terminal what is done with the file; it may take a while."""
    words = {"looking": "rows looked at", "submitting": "rows submitted"}

    def say(stage: Stage, rows: int) -> None:
        if not as_json and err.is_terminal and rows:
            err.print(f"\r{rows:,} {words[stage]}", end="")

    return say


def _say_ended(job: Job) -> None:
    counts = job.counts
    out.print(f"{job.state}: {counts.completed:,} of {job.job.rows:,} rows have results, {tokens(counts)}")
    if counts.failed:
        out.print(f"{counts.failed:,} failed: {failures(counts)}")
    if job.progress is not None and job.progress.trouble and job.ended is None:
        err.print(f"held up: {job.progress.trouble}")
    if job.ended is not None and job.ended.code:
        err.print(in_red(job.ended.code, job.ended.message))


def _row(job: Job) -> tuple[object, ...]:
    at = datetime.fromtimestamp(job.job.submitted_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    counts = job.counts
    name = f"{job.namespace}/{job.job.id}"
    return name, job.state, job.job.rows, counts.completed, counts.failed, at, job.job.name
