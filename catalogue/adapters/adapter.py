"""Trained guidance as files, read without torch: adapter_config.json, and the header of adapter_model.safetensors.

`guideway apply` and the workers both read it here, so that both give the same answer. Strangers wrote the files:
everything in them is checked before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Never

from guideway.catalogue.adapters.tensor_names import adapters, plain_name
from guideway.catalogue.artefacts.contents import MAX_TEXT_BYTES, Contents
from guideway.schemas.failures import FailureCode, Refusal

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
WIDTHS: Final[Mapping[str, int]] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Type of weights, by its name in safetensors → bytes of one value."""
_MAX_DIMENSIONS: Final = 8
_MAX_NAME_CHARS: Final = 512
_SHOWN_CHARS: Final = 80


class TensorInfo(NamedTuple):
    """The header's entry for one tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""
    stop: int

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Adapter(NamedTuple):
    """Trained guidance as its folder has it."""

    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    """Name, as PEFT's `save_pretrained` writes it → tensor."""
    weights: bytearray
    """The whole file."""


def damaged(message: str) -> Refusal:
    """A refusal of guidance that cannot be used as it is."""
    # JSON can hold half of a character in a name. The message must be sent as UTF-8.
    return Refusal(FailureCode.GUIDANCE_DAMAGED, message.encode(errors="backslashreplace").decode())


def shown(value: object) -> str:
    """A value of the files for a message, cut to one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def parse_adapter(files: Contents) -> Adapter:
    """The adapter of these files. Raises Refusal(guidance_damaged)."""
    if CONFIG not in files or WEIGHTS not in files:
        raise damaged(f"it lacks {CONFIG if CONFIG not in files else WEIGHTS}: publish both files again")
    config = _object(CONFIG, files[CONFIG])
    return Adapter(config, _plainly_named(_tensors(files[WEIGHTS])), files[WEIGHTS])


def check_finite(adapter: Adapter) -> None:
    """Raises Refusal(guidance_damaged) for a weight that is not a finite float32; does nothing without numpy."""
    try:
        import numpy as np
    except ImportError:
        return
    data = np.frombuffer(adapter.weights, np.uint8)
    for name, (dtype, _, start, stop) in adapter.tensors.items():
        raw = data[start:stop]
        if dtype == "BF16":
            finite = bool(((raw.view("<u2") & 0x7F80) != 0x7F80).all())
        else:
            with np.errstate(over="ignore"):
                finite = bool(np.isfinite(raw.view(f"<f{WIDTHS[dtype]}").astype("<f4", copy=False)).all())
        if not finite:
            raise not_finite(name)


def not_finite(name: str) -> Refusal:
    """The refusal of a tensor with weights that are not finite."""
    return damaged(f"tensor {shown(name)} holds values that are not finite: train it again")


def _object(what: str, text: bytes | bytearray) -> dict[str, Any]:
    """The object of a JSON text. Raises Refusal(guidance_damaged) for anything else."""
    if len(text) > MAX_TEXT_BYTES:
        raise damaged(f"{what} has {len(text)} bytes, at most {MAX_TEXT_BYTES} are taken: publish it again")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name twice")
        return found

    def no_number(text: str) -> Never:
        raise ValueError(f"{text} is no number of JSON")

    def number(text: str) -> float:
        if not math.isfinite(found := float(text)):
            raise ValueError("a number that is too large")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number, parse_float=number)
    # RecursionError: the text is nested too deeply. ValueError: anything else.
    except (ValueError, RecursionError) as error:
        why = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}.get(type(error))
        raise damaged(
            f"{what} cannot be read ({why or str(error)[:80]}): publish adapter_config.json and "
            "adapter_model.safetensors again"
        ) from None
    if not isinstance(found, dict):
        raise damaged(f"{what} holds no object: publish it again")
    return found


def _tensors(weights: bytearray) -> dict[str, TensorInfo]:
    """The header of a safetensors file, checked against the file.

    The file has 8 bytes with the header's length, little-endian; the header in JSON; and the bytes of the tensors
    without gaps (https://huggingface.co/docs/safetensors).
    """
    length = int.from_bytes(weights[:8], "little")
    if len(weights) < 8 or length > len(weights) - 8:
        if weights.startswith(b"version https://git-lfs"):
            raise damaged(f"{WEIGHTS} is a pointer of Git LFS and not the file itself: fetch it with `git lfs pull`")
        if weights.startswith((b"\x80", b"PK\x03\x04")):
            raise damaged(
                f"{WEIGHTS} looks like a pickle, which is never read, or is cut: save it again with safetensors"
            )
        raise _torn("it ends within its header")
    if length > MAX_TEXT_BYTES:
        raise _torn(f"its header has {length} bytes, at most {MAX_TEXT_BYTES} are taken")
    header = _object(f"the header of {WEIGHTS}", weights[8 : 8 + length])
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise _torn("its `__metadata__` is no object of texts")
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.start != end:
            raise _torn(f"there is a gap or an overlap before tensor {shown(name)}")
        end = tensor.stop
    if end != len(weights):
        raise _torn(f"its tensors end at byte {end}, and the file has {len(weights)}")
    return tensors


def _plainly_named(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by their plain names. Raises Refusal(guidance_damaged) if two get the same name, as with two adapters."""
    if len(several := adapters(tensors)) > 1:
        raise damaged(
            f"it holds {len(several)} adapters ({shown(sorted(several))}): save one, with "
            "`save_pretrained(..., selected_adapters=[NAME])`"
        )
    named: dict[str, TensorInfo] = {}
    for name, tensor in tensors.items():
        if (plain := plain_name(name)) in named:
            raise damaged(f"it holds tensor {shown(plain)} twice, the second time as {shown(name)}: save it again")
        named[plain] = tensor
    return named


def _tensor(name: str, entry: object, offset: int) -> TensorInfo:
    if not name.isprintable() or len(name) > _MAX_NAME_CHARS:
        raise _torn(f"{shown(name)} is no name of a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _torn(f"tensor {shown(name)} has an unknown description in the header")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise damaged(
            f"tensor {shown(name)} is of type {shown(dtype)}, which no weights have here: save them as float32, "
            "bfloat16 or float16"
        )
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise _torn(f"tensor {shown(name)} has an invalid shape or place")
    if offsets[1] - offsets[0] != math.prod(shape) * WIDTHS[dtype]:
        raise _torn(f"tensor {shown(name)} has another size than its shape says")
    return TensorInfo(dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


def _counts(values: object) -> bool:
    """Whether it is a list of integers from 0 to a sensible limit."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _torn(why: str) -> Refusal:
    return damaged(f"{WEIGHTS} cannot be read: {why}: save it again")
