"""The texts that calibrate an endpoint's labels, if its manifest names a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from guideway.schemas.calibration import MAX_TEXTS, Calibration
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest

_MAX_BYTES: Final = 2**20


class _Line(msgspec.Struct, frozen=True):
    """One line of a `.jsonl`; other fields are ignored."""

    text: str
    label: str | None = None


_LINE: Final = msgspec.json.Decoder(_Line)


def with_texts(path: Path, manifest: Manifest) -> Manifest:
    """The manifest of the file `path`, with the texts in place of the file that its calibration names.

    Raises: Refusal `invalid_manifest`, which names the line and what is wrong with it.
    """
    if not isinstance(manifest, Endpoint) or not isinstance(manifest.calibration, Calibration):
        return manifest
    calibration = manifest.calibration
    if not calibration.file:
        return manifest
    place = path.parent / calibration.file
    try:
        texts, labels = _read(place, labelled=calibration.method == "fitted")
        found = msgspec.structs.replace(calibration, file="", texts=texts, labels=labels)
    except OSError as error:
        raise _refused(f"{calibration.file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _refused(f"{calibration.file}: {error}") from None
    return msgspec.structs.replace(manifest, calibration=found)


def _read(place: Path, *, labelled: bool) -> tuple[list[str], list[str]]:
    with place.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes: {MAX_TEXTS} texts are enough")
    try:
        lines = (
            data.decode("utf-8-sig").splitlines() if place.suffix == ".txt" else data.decode("utf-8-sig").split("\n")
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    if place.suffix == ".txt" and not labelled:
        return _at_most([line for line in lines if line.strip()]), []
    if place.suffix != ".jsonl":
        wanted = (
            "a .jsonl with `text` and `label`" if labelled else "a .txt with one text a line, or a .jsonl with `text`"
        )
        raise ValueError(f"give {wanted}")
    found = [_decoded(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    missing = next((number for number, one in enumerate(found, 1) if labelled and one.label is None), None)
    if missing is not None:
        raise ValueError(f"row {missing} has no `label`: add the right one")
    return _at_most([one.text for one in found]), [one.label or "" for one in found] if labelled else []


def _decoded(number: int, line: str) -> _Line:
    try:
        return _LINE.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from None


def _at_most(texts: list[str]) -> list[str]:
    if len(texts) > MAX_TEXTS:
        raise ValueError(f"it holds {len(texts)} texts, at most {MAX_TEXTS} are taken: leave some out, by chance")
    return texts


def _refused(why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_MANIFEST, f"calibration.file: {why}")
