"""What the store keeps of batch jobs, and for how long. Any number of batchers may sweep at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, Literal

from guideway.catalogue.artefacts.opening import opened
from guideway.producers.batch.folder import FOLDER, JobFolder
from guideway.schemas.names.addresses import NAME
from guideway.schemas.services.batch import JOB_ID, MAX_DEADLINE_S

DAY_S: Final = 86_400
_LISTED_S: Final = 62 * DAY_S
"""The record of a job may come again as long as its topic has it: until then it is known that the job has ended."""

Gone = Literal["nothing", "results", "all"]


def gone(ended_s: float | None, changed_s: float | None, now: float, kept_s: float) -> Gone:
    """What is to be removed of a job. Pure; Unix times in seconds.

    ended_s: when it ended; None: it has not, or was never begun. changed_s: when its folder last changed; None: nobody
    knows. kept_s: for how long results are kept.
    """
    if ended_s is not None:
        age_s = now - ended_s
        return "all" if age_s > kept_s + _LISTED_S else "results" if age_s > kept_s else "nothing"
    # No job takes longer than its deadline. One that failed has results of nobody, nor has a half that was submitted.
    is_over = changed_s is not None and now - changed_s > kept_s + MAX_DEADLINE_S
    return "all" if is_over else "nothing"


def sweep(
    store: str, namespace: str | None, now: float, kept_s: float, is_over: Callable[[], bool] = lambda: False
) -> int:
    """Remove what is kept no longer; returns of how many jobs. namespace: whose; None: of all.

    It takes a while. Raises OSError and what else the store has.
    """
    count = 0
    for owner, job in jobs_in(store, namespace):
        if is_over():
            break
        folder = JobFolder(store, owner, job)
        # What cannot be read now is looked at again the next time, and keeps nothing else from going.
        with contextlib.suppress(ValueError, OSError):
            ended = folder.ended()
            changed_s = folder.changed_s() if ended is None else None
            match gone(None if ended is None else ended.at_ms / 1000, changed_s, now, kept_s):
                case "all":
                    folder.remove()
                    count += 1
                case "results":
                    count += folder.forget_results()
    return count


def jobs_in(store: str, namespace: str | None = None) -> Iterator[tuple[str, str]]:
    """(namespace, id) of the jobs that the store has something of. namespace: whose; None: of all."""
    fs, base = opened(store)

    def below(folder: str) -> list[str]:
        fs.invalidate_cache()
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in fs.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    for owner in below(f"{base}/{FOLDER}") if namespace is None else [namespace]:
        if NAME.fullmatch(owner):
            for job in below(f"{base}/{FOLDER}/{owner}"):
                if JOB_ID.fullmatch(job):
                    yield owner, job
