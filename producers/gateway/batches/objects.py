"""Files and jobs as the objects of OpenAI's. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from guideway.producers.batch.files.asked import CHAT_URL, COMPLETION_URL
from guideway.producers.batch.jobs import Job
from guideway.producers.gateway.batches.accepted import Ask, Standing
from guideway.producers.gateway.batches.file_store import About
from guideway.producers.gateway.openai.refused import Wrong
from guideway.producers.gateway.status import DoorCode
from guideway.schemas.names.addresses import ADDRESS
from guideway.schemas.services.batch import JOB_ID, MAX_DEADLINE_S, Counts

T = TypeVar("T")
OURS: Final = ""
"""The note of a job that holds `Origin`; no metadata of a caller has this name."""
MAX_METADATA: Final = 16
_MAX_METADATA_NAME: Final = 64
_MAX_METADATA_CHARS: Final = 512
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_LINE: Final = re.compile(r"\bline (\d{1,9}):")
_SECONDS: Final = {"m": 60, "h": 3600, "d": 86_400}
_RESULT: Final = re.compile(rf"file-({JOB_ID.pattern})-(output|errors)")
_STATUS: Final = {
    "waiting": "validating",
    "running": "in_progress",
    "cancelling": "cancelling",
    "ending": "finalizing",
    "done": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
}


class Origin(msgspec.Struct, frozen=True):
    """What a batch was made of at the gateway, as a note of its job."""

    file: str
    endpoint: str
    window: str


class ResultFile(NamedTuple):
    """A file of results, as its id says."""

    job: str
    which: Literal["output", "errors"]


def window_s(window: str) -> int:
    """Seconds. Raises Wrong."""
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise Wrong(
            f"completion_window {window[:40]!r} is none: write minutes, hours or days such as '24h', at most "
            f"{MAX_DEADLINE_S // 86_400} days",
            "completion_window",
        )
    return seconds


def told_endpoint(endpoint: str) -> str | None:
    """The endpoint to which all rows go; None: each row names its own. Raises Wrong."""
    if endpoint in (CHAT_URL, COMPLETION_URL):
        return None
    if not ADDRESS.fullmatch(endpoint) or endpoint.startswith("/v1/"):
        raise Wrong(
            f"endpoint {endpoint[:80]!r} is none: write {CHAT_URL} or {COMPLETION_URL} for rows in OpenAI's form, or "
            "/NAMESPACE/NAME for rows of fields",
            "endpoint",
        )
    return endpoint


def notes_of(asked: Ask) -> dict[str, str]:
    """What is noted with the job. Raises Wrong for metadata that are too large."""
    metadata = asked.metadata or {}
    if len(metadata) > MAX_METADATA:
        raise Wrong(
            f"metadata has {len(metadata)} members, at most {MAX_METADATA} are kept: leave some out", "metadata"
        )
    for name, value in metadata.items():
        if not name or len(name) > _MAX_METADATA_NAME or len(value) > _MAX_METADATA_CHARS:
            raise Wrong(
                f"metadata has names of 1 to {_MAX_METADATA_NAME} characters and values of at most "
                f"{_MAX_METADATA_CHARS}: shorten {name[:40]!r}",
                "metadata",
            )
    origin = Origin(asked.input_file_id, asked.endpoint, asked.completion_window)
    return {**metadata, OURS: msgspec.json.encode(origin).decode()}


def origin_of(job: Job) -> Origin:
    """Of a job that came another way, what can be said."""
    try:
        return msgspec.json.decode(job.job.notes.get(OURS, ""), type=Origin)
    except msgspec.DecodeError:
        return Origin("", "", f"{round((job.job.deadline_ms - job.job.submitted_ms) / 3_600_000)}h")


def file_object(about: About) -> dict[str, Any]:
    """An uploaded file."""
    return _file(about.id, about.bytes, about.created_s, about.filename, "batch") | (
        {} if about.expires_s is None else {"expires_at": about.expires_s}
    )


def result_file_object(id_: str, size: int, job: Job, name: str, kept_s: int) -> dict[str, Any]:
    """A file of results. kept_s: for how long there are any."""
    ended_s = (job.ended.at_ms if job.ended is not None else job.job.submitted_ms) // 1000
    return _file(id_, size, ended_s, f"{job.job.id}-{name}", "batch_output") | {"expires_at": ended_s + kept_s}


def _file(id_: str, size: int, created_s: int, filename: str, purpose: str) -> dict[str, Any]:
    return {
        "id": id_,
        "object": "file",
        "bytes": size,
        "created_at": created_s,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def result_file(id_: str) -> ResultFile | None:
    """The file of results that an id names; None: it names none."""
    found = _RESULT.fullmatch(id_)
    return None if found is None else ResultFile(found[1], found[2])  # type: ignore[arg-type]


def created_ms(batch: Job | Standing) -> int:
    """When it was asked for, Unix time."""
    return batch.job.submitted_ms if isinstance(batch, Job) else batch.batch.created_ms


def object_of(batch: Job | Standing) -> dict[str, Any]:
    """A batch, whether there is a job of it yet or not."""
    return _of_job(batch) if isinstance(batch, Job) else _of_accepted(batch)


def _of_job(job: Job) -> dict[str, Any]:
    ended, counts, state = job.ended, job.counts, job.state
    failed = ended is not None and ended.outcome == "failed"
    return _batch(
        job.job.id,
        origin_of(job),
        metadata={name: value for name, value in job.job.notes.items() if name != OURS},
        status=_STATUS[state],
        created_ms=job.job.submitted_ms,
        deadline_ms=job.job.deadline_ms,
        ended_ms=None if ended is None else ended.at_ms,
    ) | {
        "errors": _errors(ended.code, ended.message, None) if failed and ended is not None else None,
        "output_file_id": _result_id(job, "output") if ended and ended.output and counts.completed else None,
        "error_file_id": _result_id(job, "errors") if ended and ended.errors and counts.failed else None,
        "in_progress_at": None if job.progress is None and ended is None else job.job.submitted_ms // 1000,
        "request_counts": {"total": job.job.rows, "completed": counts.completed, "failed": counts.failed},
        "usage": _usage(counts),
    }


def _of_accepted(standing: Standing) -> dict[str, Any]:
    batch, ended = standing.batch, standing.ended
    ask = batch.ask
    made = _batch(
        batch.id,
        Origin(ask.input_file_id, ask.endpoint, ask.completion_window),
        metadata=ask.metadata or {},
        status=ended.outcome if ended is not None else "cancelling" if standing.is_cancelled else "validating",
        created_ms=batch.created_ms,
        deadline_ms=batch.deadline_ms,
        ended_ms=None if ended is None else ended.at_ms,
    )
    if ended is not None and ended.outcome == "failed":
        made["errors"] = _errors(ended.code, ended.message, ended.param)
    elif ended is None and standing.trouble:
        made["errors"] = _errors(str(DoorCode.BUSY), standing.trouble, None)
    return made


def _errors(code: str, message: str, param: str | None) -> dict[str, Any]:
    found = _LINE.search(message)
    one = {"code": code, "message": message, "line": int(found[1]) if found else None, "param": param}
    return {"object": "list", "data": [one]}


def _batch(
    id_: str,
    origin: Origin,
    *,
    metadata: Mapping[str, str],
    status: str,
    created_ms: int,
    deadline_ms: int,
    ended_ms: int | None,
) -> dict[str, Any]:
    ended_s = None if ended_ms is None else ended_ms // 1000

    def at(which: str) -> int | None:
        return ended_s if status == which else None

    return {
        "id": id_,
        "object": "batch",
        "endpoint": origin.endpoint,
        "errors": None,
        "input_file_id": origin.file,
        "completion_window": origin.window,
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": created_ms // 1000,
        "in_progress_at": None,
        "expires_at": deadline_ms // 1000,
        "finalizing_at": at("completed") or at("expired") or at("cancelled"),
        "completed_at": at("completed"),
        "failed_at": at("failed"),
        "expired_at": at("expired"),
        "cancelling_at": at("cancelled"),
        "cancelled_at": at("cancelled"),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": _usage(Counts()),
        "metadata": dict(metadata) or None,
    }


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt_tokens + counts.output_tokens,
    }


def _result_id(job: Job, which: str) -> str:
    return f"file-{job.job.id}-{which}"


def page(items: Sequence[dict[str, Any]], *, limit: int, after: str) -> dict[str, Any]:
    """A page of a list, behind the item `after`. Raises Wrong where that is not there."""
    ids = [one["id"] for one in items]
    if after and after not in ids:
        raise Wrong(f"there is no {after[:80]!r} in the list: leave `after` out to begin anew", "after")
    rest = items[ids.index(after) + 1 :] if after else items
    shown = list(rest[:limit])
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rest) > limit,
    }
