"""`guideway studio submit | watch | cancel` and `guideway trainer`: runs as jobs from a topic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, err, in_red, out, print_json, run
from guideway.cli.console.services import Restart, begin_service, run_service, until_signalled
from guideway.cli.studio.progress import Watch
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME
from guideway.settings import Settings
from guideway.training.jobs import job_topics
from guideway.training.jobs.messages import JobEnded
from guideway.usecases import serve
from guideway.usecases.studio.run_studio import submit

JobId = Annotated[str, typer.Argument(help="NAMESPACE/JOB, as `guideway studio submit` printed it.")]
EXIT_FAILED, EXIT_CANCELLED = 1, 130


def add_to(app: typer.Typer, group: typer.Typer) -> None:
    """Add these commands: `group` is the studio's."""
    group.command("submit")(submit_)
    group.command("watch")(watch)
    group.command("cancel")(cancel)
    app.command("trainer")(trainer)


def submit_(
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="The task's file (YAML).")],
    publish: Annotated[bool, typer.Option("--publish", help="Publish what comes of it, by the task's rule.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a task on the training topic, for a trainer to carry out. Its data must be where trainers see them."""
    job = run(submit(Settings.from_environ(), task_file, publish=publish))
    if as_json:
        print_json({"job": f"{job.task.namespace}/{job.id}"})
    else:
        out.print(f"{job.task.namespace}/{job.id}\nNext:  guideway studio watch {job.task.namespace}/{job.id}")


def watch(job: JobId, as_json: AsJson = False) -> None:
    """Show what becomes of a job until it has ended. Exit code 1 if it failed, 130 if it was cancelled."""

    async def work() -> JobEnded | None:
        with Watch(as_json=as_json) as show:
            async for news in job_topics.watch(Settings.from_environ().answering_cluster(), *_of(job)):
                if isinstance(news, JobEnded):
                    return news
                show(news.event)
        return None

    ended = run(work())
    assert ended is not None, "watching ends with the job"
    if as_json:
        print_json(ended)
    else:
        _say(ended)
    raise typer.Exit({"done": 0, "failed": EXIT_FAILED, "cancelled": EXIT_CANCELLED}[ended.outcome])


def cancel(job: JobId, as_json: AsJson = False) -> None:
    """End a job, or keep it from beginning. What it has trained so far stays in its folder."""
    run(job_topics.cancel(Settings.from_environ().answering_cluster(), *_of(job)))
    if as_json:
        print_json({"job": job, "cancelled_at": time.time()})
    else:
        out.print(f"{job} is to end")


def trainer(
    jobs: Annotated[
        Path | None,
        typer.Option(help="Folder of all jobs, on storage that trainers share; default: `jobs` in GUIDEWAY_HOME."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one for each namespace, whose jobs read nothing else; needed where there are rights."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")] = "cpu",
    restart: Restart = True,
) -> None:
    """Run a trainer: jobs from the training topic, one at a time. Any number may run; a job has one of them."""
    settings = begin_service(restart=restart)

    async def work() -> None:
        service = await serve.trainer(settings, jobs=jobs, data=data, device=device)
        interrupts.keeps("the job at hand stays in its topic, and its next trainer goes on from the checkpoint")
        await until_signalled(service.run, service.stop)

    run_service(settings, work())


def _of(job: str) -> tuple[str, str]:
    """(namespace, id). Raises Refusal(invalid_setting)."""
    namespace, slash, id_ = job.strip("/").partition("/")
    if not slash or not NAME.fullmatch(namespace):
        raise Refusal(FailureCode.INVALID_SETTING, f"{job!r} is no job: write NAMESPACE/JOB, as `submit` printed it")
    return namespace, id_


def _say(ended: JobEnded) -> None:
    if ended.outcome == "done":
        out.print(f"done: {ended.run}{', and published' if ended.published else ''}")
        if ended.message:
            err.print(f"not published: {ended.message}")
    else:
        err.print(in_red(ended.code, ended.message))
