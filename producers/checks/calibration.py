"""Decides an endpoint's calibration when it is applied, so that its version is complete. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from guideway.catalogue.entries import Catalogue
from guideway.producers.marshalling.template import parse
from guideway.schemas.calibration import MAX_LABELS, Calibration, CalibrationRule, automatic, labels_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.output import WordLabels

_MARK: Final = "\u2063guideway\u2063"
"""Stands for a text in the template. No person writes it."""
_OTHERS: Final[dict[str, Any]] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
"""Type of a field that is no text → the value that fills it."""


def settled(manifests: Iterable[Manifest], catalogue: Catalogue) -> list[Manifest]:
    """The manifests as the catalogue keeps them, with the calibration of each endpoint decided.

    Guidance is found among these manifests and in the catalogue.
    Raises: Refusal `invalid_manifest` for a calibration that is not possible.
    """
    manifests = list(manifests)
    applied = {f"{one.namespace}/{one.name}": one for one in manifests if isinstance(one, Guidance)}

    def is_trained(name: str, namespace: str) -> bool:
        guidance = applied.get(name.partition("*")[0].partition("@")[0])
        if guidance is None:
            if name.partition("/")[0] in catalogue.hidden:
                # Of another namespace, which this user does not see: what is shared is mostly trained.
                return True
            _, guidance = catalogue.guidance(name, for_namespace=namespace)
        return guidance.form != "text_prompt"

    return [_settled(one, is_trained) if isinstance(one, Endpoint) else one for one in manifests]


def _settled(endpoint: Endpoint, is_trained: Callable[[str, str], bool]) -> Endpoint:
    rule = endpoint.calibration
    if rule == "off":
        return endpoint
    if rule is None or rule == "auto":
        taught = endpoint.retrieval is not None or any(is_trained(one, endpoint.namespace) for one in endpoint.guidance)
        wanted = automatic(endpoint.output, is_taught=taught)
        try:
            return msgspec.structs.replace(endpoint, calibration=wanted and _with_around(wanted, endpoint))
        except ValueError:
            return msgspec.structs.replace(endpoint, calibration=None)
    try:
        return msgspec.structs.replace(endpoint, calibration=_asked(rule, endpoint))
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"endpoint {endpoint.address}: calibration: {error}") from None


def check_calibration(manifest: Manifest) -> None:
    """Raises: Refusal `invalid_manifest` for an endpoint whose calibration is not possible."""
    if isinstance(manifest, Endpoint) and manifest.calibration not in (None, "auto", "off"):
        try:
            _asked(manifest.calibration, manifest)
        except ValueError as error:
            raise Refusal(FailureCode.INVALID_MANIFEST, str(error)) from None


def _asked(rule: CalibrationRule | None, endpoint: Endpoint) -> Calibration:
    """The calibration that the endpoint asks for. Raises: ValueError, which says what to change."""
    asked = rule if isinstance(rule, Calibration) else Calibration(method="contextual")
    _check(asked, endpoint)
    return _with_around(asked, endpoint)


def _check(calibration: Calibration, endpoint: Endpoint) -> None:
    labels = labels_of(endpoint.output)
    if not labels:
        kind = endpoint.output.__struct_config__.tag
        raise ValueError(f"an output of type {kind} has no labels: leave it out")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"there are {len(labels)} labels, at most {MAX_LABELS} can be calibrated: write `off`")
    if calibration.method == "fitted" and isinstance(endpoint.output, WordLabels):
        raise ValueError("labels of words are calibrated from texts without labels: write `method: unlabelled`")
    for label in calibration.labels:
        if label not in labels:
            raise ValueError(f"{label!r} is none of the output's labels ({', '.join(labels[:20])}): correct that row")


def _with_around(calibration: Calibration, endpoint: Endpoint) -> Calibration:
    """The calibration with the template's text around each text. Raises ValueError if the template changes texts."""
    around = around_text(endpoint)
    if len(around) < 2:
        raise ValueError(
            "input.template does not put a field that is text in as it is, so nobody can tell what stands around it: "
            "write `off`, or a template that does"
        )
    return msgspec.structs.replace(calibration, around=around)


def around_text(endpoint: Endpoint) -> list[str]:
    """What the template puts before, between and behind the fields that are text, where it puts them in as they are;
    one text where it does not. Raises ValueError where the template cannot be applied."""
    fields = {name: _filled(field) for name, field in endpoint.input.fields.items()}
    return parse(endpoint.input.template).render(fields, max_chars=endpoint.max_text_chars).split(_MARK)


def around_only_field(endpoint: Endpoint) -> tuple[str, str] | None:
    """What the template puts before and behind its only field; None where a field cannot be read off a text."""
    try:
        around = around_text(endpoint)
    except ValueError:
        return None
    return (around[0], around[1]) if len(around) == 2 and len(endpoint.input.fields) == 1 else None


def _filled(field: Field) -> Any:
    return _MARK if field.type == "string" else _OTHERS[field.type]
