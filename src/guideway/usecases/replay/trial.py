"""The two endpoints of a replay: trials of the endpoint as it is and as it might be. Pure.

A trial is an entry of the catalogue like any other, so that it passes the same checks, needs the same rights and is
answered by the same services. It has a name of its own, no targets, no archive, no description (routers choose among
endpoints with one) and nobody's access, and is removed when the replay ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from guideway.catalogue.documents.yaml_text import Loader
from guideway.catalogue.entries import Catalogue
from guideway.schemas.calibration import Calibration, automatic
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.shadow import ShadowChanges
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import TRIAL_ENDINGS, is_trial
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.output import OutputRule, doubtful_target
from guideway.schemas.retrieval import GuidanceUse, RetrievalRule
from guideway.training.replays.answers import SIDES, Side

_SUFFIX: Final[dict[Side, str]] = dict(zip(SIDES, TRIAL_ENDINGS, strict=True))
_MOST_CHARS: Final = 63
CHANGES: Final = ("guidance", "instruction", "model_size", "output", "retrieval", "calibration")
"""What `--with` may name."""
_NOTHING: Final = "none"


def trial_name(endpoint: str, side: Side) -> str:
    """The name of a trial. Two of the longest names may share it: then one of them is replayed at a time."""
    suffix = _SUFFIX[side]
    return endpoint[: _MOST_CHARS - len(suffix)].rstrip("-") + suffix


def looks_like_trial(entry: object) -> bool:
    """Whether a replay may have made this entry. One that somebody uses is not to be replaced or removed."""
    return (
        isinstance(entry, Endpoint)
        and is_trial(entry.name)
        and entry.lane == "batch"
        and not (entry.description or entry.access or entry.copied_to or entry.leaves or entry.shadow)
    )


def trial_of(endpoint: Endpoint, name: str, side: Side, catalogue: Catalogue) -> Endpoint:
    """The endpoint as a trial. name: of the endpoint that is replayed. Raises Refusal of guidance that is not there.

    What it uses gets its version, so that both answer all rows as they were when the replay began.
    """
    retrieval, owner = endpoint.retrieval, endpoint.namespace
    if retrieval is not None:
        retrieval = msgspec.structs.replace(
            retrieval, sets=[_pinned_set(one, owner, catalogue) for one in retrieval.sets]
        )
    return msgspec.structs.replace(
        endpoint,
        name=trial_name(name, side),
        description="",
        lane="batch",
        access=[],
        targets=[],
        archive=False,
        shadow=None,
        partial=False,
        deadline_s=None,
        partitions=1,
        guidance=[str(catalogue.guidance(one, for_namespace=owner)[0]) for one in endpoint.guidance],
        retrieval=retrieval,
        output=_without_target(endpoint.output),
    )


def changed(endpoint: Endpoint, changes: dict[str, str]) -> Endpoint:
    """The endpoint with these changes, as `--with` has them. Raises Refusal(invalid_setting)."""
    require_change(changes)
    fields: dict[str, Any] = {}
    for name, value in changes.items():
        fields |= _changed(endpoint, name, value)
    new = _with_fields(endpoint, fields)
    if new == endpoint:
        raise Refusal(FailureCode.INVALID_SETTING, f"{endpoint.address} is so already: name what would be new")
    return new


def changed_as(endpoint: Endpoint, changes: ShadowChanges) -> Endpoint:
    """The endpoint with these changes, as `shadow.with` has them; perhaps it is so already.

    Raises Refusal(invalid_setting).
    """
    fields = changes.named
    try:
        if (sets := fields.get("retrieval")) is not None:
            fields["retrieval"] = _retrieval(endpoint.retrieval, sets)
    except msgspec.ValidationError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"{endpoint.address} cannot be so: {error}") from None
    return _with_fields(endpoint, fields)


def told(changes: ShadowChanges) -> dict[str, str]:
    """The changes for people, as `--with` has them."""
    return {name: _told(value) for name, value in changes.named.items()}


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value) or _NOTHING
    return (value or _NOTHING) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _with_fields(endpoint: Endpoint, fields: dict[str, Any]) -> Endpoint:
    """Raises Refusal(invalid_setting) where the fields do not fit each other."""
    try:
        new = msgspec.structs.replace(endpoint, **fields)
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"{endpoint.address} cannot be so: {error}") from None
    if new != endpoint and "calibration" not in fields and _is_by_default(endpoint):
        # `apply` decides anew, as it would for an endpoint with this guidance and output.
        new = msgspec.structs.replace(new, calibration=None)
    return new


def with_versions(changes: dict[str, str], new: Endpoint) -> dict[str, str]:
    """The changes that name something that has versions, with these."""
    sets = new.retrieval.sets if new.retrieval is not None else []
    named = {"guidance": ", ".join(new.guidance), "retrieval": ", ".join(sets)}
    return {name: told for name, told in named.items() if name in changes and told}


def require_change(changes: dict[str, str]) -> None:
    """Raises Refusal(invalid_setting) where nothing is new."""
    if not changes:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"nothing is new: name what is, as --with guidance=NAMESPACE/NAME@VERSION ({', '.join(CHANGES)})",
        )


def split_changes(texts: Sequence[str]) -> dict[str, str]:
    """All of `--with`. Raises Refusal(invalid_setting)."""
    wanted = dict(pairs := [split_change(one) for one in texts])
    if len(wanted) < len(pairs):
        raise Refusal(FailureCode.INVALID_SETTING, "--with names something twice: write guidance=A,B for several")
    return wanted


def split_change(text: str) -> tuple[str, str]:
    """`NAME=VALUE` of `--with`; a VALUE that begins with @ is read from that file. Raises Refusal(invalid_setting)."""
    name, equals, value = text.partition("=")
    if not equals or name not in CHANGES:
        near = did_you_mean(name, CHANGES)
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"--with {text[:80]!r} is no change: {near}write NAME=VALUE, NAME one of {', '.join(CHANGES)}",
        )
    if value.startswith("@") and name in ("instruction", "output"):
        try:
            value = Path(value[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
            raise Refusal(FailureCode.INVALID_SETTING, f"--with {name}: {value[1:]} cannot be read ({why})") from None
    return name, value


def _changed(endpoint: Endpoint, name: str, value: str) -> dict[str, Any]:
    listed = [] if value == _NOTHING else [one.strip() for one in value.split(",") if one.strip()]
    try:
        match name:
            case "guidance":
                return {"guidance": msgspec.convert(listed, list[GuidanceUse])}
            case "retrieval":
                return {"retrieval": _retrieval(endpoint.retrieval, listed)}
            case "output":
                return {"output": msgspec.convert(_from_yaml(value), OutputRule)}
            case "model_size":
                return {"model_size": value}
            case "calibration":
                return {"calibration": msgspec.convert(value, Literal["auto", "off", "contextual"])}
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"--with {name}: {error}") from None
    return {"instruction": "" if value == _NOTHING else value}


def _from_yaml(text: str) -> Any:
    """Raises ValueError, one sentence."""
    try:
        return yaml.load(text, Loader)
    except Exception as error:
        # Any exception of Python, for a tag such as `!!bool x` or too many brackets.
        why = error.problem if isinstance(error, yaml.MarkedYAMLError) else type(error).__name__
        raise ValueError(f"it is no YAML ({why}): write a rule such as {{type: choice, labels: [glad, sad]}}") from None


def _retrieval(present: RetrievalRule | None, sets: Sequence[str]) -> RetrievalRule | None:
    if not sets:
        return None
    rule = msgspec.to_builtins(present) if present is not None else {}
    return msgspec.convert(rule | {"sets": list(sets)}, RetrievalRule)


def _pinned_set(name: str, owner: str, catalogue: Catalogue) -> str:
    ref, _ = catalogue.retrieval_set(name, for_namespace=owner)
    return str(ref) if ref.weight == 1 else f"{ref}*{ref.weight:g}"


def _is_by_default(endpoint: Endpoint) -> bool:
    """Whether its calibration is what `auto` means for an endpoint like it."""
    rule = endpoint.calibration
    if not isinstance(rule, Calibration):
        return rule is None
    usual = automatic(endpoint.output, is_taught=False)
    return usual is not None and msgspec.structs.replace(rule, around=usual.around) == usual


def _without_target(rule: OutputRule) -> OutputRule:
    """The rule, but that no reply goes elsewhere: the value is what it is, doubtful or not, as the caller gets it."""
    if doubtful_target(rule) is None:
        return rule
    return msgspec.structs.replace(rule, min_confidence=None, below=None)
