"""What is made of an endpoint's calibration when it is applied, so that its version says all there is to it. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from guideway.producers.template import parse
from guideway.schemas.calibration import MAX_LABELS, Calibration, labels_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Field, Manifest

_MARK: Final = "\u2063guideway\u2063"
"""Stands for a text while the template is looked at; no text that people write."""
_OTHERS: Final[dict[str, Any]] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
"""What fields that are no text are filled with."""


def settled(manifest: Manifest) -> Manifest:
    """The manifest as the catalogue keeps it: an endpoint's calibration is decided, and what is around a text known.

    Raises: Refusal `invalid_manifest` for a calibration that is asked for and cannot be.
    """
    if not isinstance(manifest, Endpoint):
        return manifest
    asked = manifest.calibration
    if asked == "off":
        return manifest
    if asked is None or asked == "auto":
        wanted = Calibration(method="contextual") if _is_wanted(manifest) else None
        try:
            return msgspec.structs.replace(manifest, calibration=wanted and _with_around(wanted, manifest))
        except ValueError:
            return msgspec.structs.replace(manifest, calibration=None)
    wanted = Calibration(method="contextual") if isinstance(asked, str) else asked
    try:
        _check(wanted, manifest)
        return msgspec.structs.replace(manifest, calibration=_with_around(wanted, manifest))
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"endpoint {manifest.address}: calibration: {error}") from None


def _is_wanted(endpoint: Endpoint) -> bool:
    """Whether nobody has taught the model these labels: guidance of a name may be trained, and passages say much."""
    return 2 <= len(labels_of(endpoint.output)) <= MAX_LABELS and not endpoint.guidance and endpoint.retrieval is None


def _check(calibration: Calibration, endpoint: Endpoint) -> None:
    labels = labels_of(endpoint.output)
    if not labels:
        kind = endpoint.output.__struct_config__.tag
        raise ValueError(f"an output of type {kind} has no labels: leave it out")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"there are {len(labels)} labels, at most {MAX_LABELS} can be calibrated: write `off`")
    for label in calibration.labels:
        if label not in labels:
            raise ValueError(f"{label!r} is none of the output's labels ({', '.join(labels[:20])}): correct that row")


def _with_around(calibration: Calibration, endpoint: Endpoint) -> Calibration:
    """Raises ValueError where the template does not put texts in as they are."""
    fields = {name: _filled(field) for name, field in endpoint.input.fields.items()}
    rendered = parse(endpoint.input.template).render(fields, max_chars=endpoint.max_text_chars)
    around = rendered.split(_MARK)
    if len(around) < 2:
        raise ValueError(
            "input.template does not put a field that is text in as it is, so nobody can tell what stands around it: "
            "write `off`, or a template that does"
        )
    return msgspec.structs.replace(calibration, around=around)


def _filled(field: Field) -> Any:
    return _MARK if field.type == "string" else _OTHERS[field.type]
