"""Says what a document is that is no manifest, if that can be seen. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.schemas.nearest import did_you_mean

WRITTEN: Final = ("endpoint/v1", "guidance/v1", "model/v1")
"""The kinds that people write by hand."""
KINDS: Final = (
    *WRITTEN,
    *("set/v1", "alias/v1", "calibration/v1", "namespace/v1", "router/v1", "webhook/v1", "target/v1"),
)
TASK: Final = "task/v1"
_ONE_OF: Final = f"a manifest has `kind: {WRITTEN[0]}`, `{WRITTEN[1]}` or `{WRITTEN[2]}`"


def no_manifest(value: Any) -> str:
    """What the document is instead of a manifest, and what to do; empty if its kind is a manifest's."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind in KINDS:
        return ""
    if kind == TASK:
        return f"kind {TASK!r} is a task of the studio: run it with `guideway studio run`"
    return _other(value) or f"{_no_kind(value, (*KINDS, TASK))}{_ONE_OF}"


def no_task(value: Any) -> str:
    """What the document is instead of a task, and what to do; empty if its kind is a task's."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == TASK:
        return ""
    if kind in KINDS:
        return (
            f"kind {kind!r} is a manifest: put it into the catalogue with `guideway apply`; a task has `kind: {TASK}`"
        )
    return _other(value) or f"{_no_kind(value, (TASK, *KINDS))}a task of the studio has `kind: {TASK}`"


def _no_kind(value: Any, known: tuple[str, ...]) -> str:
    if "kind" not in value:
        return "it has no `kind`, and "
    kind = value["kind"]
    near = did_you_mean(str(kind).lower(), known)
    # `endpoint`, without the version, is nearer than the number of equal letters shows.
    (whole, *_) = [*(one for one in known if isinstance(kind, str) and one.startswith(f"{kind.lower()}/")), ""]
    return f"invalid value {kind!r:.100} of `kind`: {f'did you mean {whole}? ' if whole else near}"


def _other(value: Any) -> str:
    """What a well-known file of another program is, such as one for Kubernetes; else empty."""
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else "a single value"
        return f"it is {what}, and a manifest is names with values, the first of them `kind`"
    match value:
        case {"apiVersion": str() as version, "kind": str() as kind}:
            what = f"a manifest of Kubernetes ({version:.60}, {kind:.60}): give it to kubectl"
        case {"services": dict()}:
            what = "a compose file: give it to docker compose"
        case {"on": _, "jobs": dict()}:
            what = "a workflow of GitHub"
        case {"openapi": _} | {"swagger": _} | {"asyncapi": _}:
            what = "the description of an interface (OpenAPI or AsyncAPI)"
        case {"$schema": str() as schema} if "kind" not in value:
            what = f"a JSON Schema or a file of another program ({schema:.80})"
        case {"project": dict()} | {"build-system": dict()}:
            what = "the project file of a Python package"
        case _:
            return ""
    return f"it is {what}; {_ONE_OF}. Leave it out of the folder"
