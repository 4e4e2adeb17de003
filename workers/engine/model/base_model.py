"""The frozen base model: found, converted once, identified by a fingerprint, loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.model.fingerprint import fingerprint, identify, in_dtype, weight_files
from guideway.workers.engine.model.model_kind import (
    check_int8,
    check_kind,
    context_of,
    settings_of,
    unsupported_int8,
)
from guideway.workers.engine.text.prompt import chat_end_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BaseModel", "at_hand", "fingerprint", "load", "prepare", "resolve"]

_CONVERSION: Final = "v1"
"""Part of the cache folder's name. Raise it when the conversion writes something else than before."""

_INT8_SHARE: Final = 0.9
"""Of the weights that multiply, at least so many are in 8 bits in a model of dtype int8."""

_UNLIMITED: Final = 2**31
"""The context of a model whose configuration sets no bound; the manifest's `max_context_tokens` bounds it."""

_HUB_PATTERNS: Final = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class BaseModel:
    """A loaded model in evaluation mode; no weight takes a gradient."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    """`sha256:` and 64 hex digits, see `identify`."""
    eos_ids: frozenset[int]
    """Every token that ends a text: the model's own and the chat template's end of turn."""
    context_tokens: int
    """The longest sequence that the engine runs as the model itself does, virtual tokens included."""
    former_fingerprint: str = ""
    """The fingerprint as it was computed before decision 15."""


def resolve(source: str) -> Path | str:
    """The place of `source`: an existing path, or a hub name as it was given.

    `package:NAME/FILE.gguf` is a file inside an installed Python package, found without importing the package.

    Raises: Refusal `unknown_model_size` if the package, the file in it, or the path is not there.
    """
    if source.startswith("package:"):
        return _in_package(source)
    path = Path(source).expanduser()
    if path.exists():
        return path.resolve()
    if path.suffix == ".gguf" or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise _missing(f"model source {source!r} is not there: give an existing folder or .gguf file, or a hub name")
    return source


def prepare(source: str, cache: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """A folder with config.json, safetensors and tokenizer for `source`, made once and found again under `cache`.

    A GGUF file becomes float32 safetensors in a folder named by the file's hash. A folder that holds safetensors is
    used as it is. A hub name is fetched into the hub's own cache, safetensors only, no remote code. Two processes may
    prepare the same source at once. `progress` gets a sentence before each long step.

    Raises: Refusal `unknown_model_size` if there is nothing loadable.
    """
    found = resolve(source)
    if isinstance(found, str):
        return _from_hub(found, progress)
    if found.is_file():
        if found.suffix != ".gguf":
            raise _missing(f"model source {source!r} is neither a folder nor a .gguf file: name one of these")
        return _from_gguf(found, cache, progress)
    if not (found / "config.json").is_file() or not weight_files(found):
        raise _missing(
            f"folder {source!r} lacks config.json or model.safetensors: save the model there with "
            "save_pretrained (safe serialisation), or name its .gguf file"
        )
    return found


def at_hand(source: str, cache: Path) -> Path | None:
    """The folder that `prepare` gives, if nothing has to be fetched or converted for it; else None."""
    try:
        found = resolve(source)
        if isinstance(found, str):
            from huggingface_hub import snapshot_download

            found = Path(snapshot_download(found, allow_patterns=_HUB_PATTERNS, local_files_only=True))
        elif found.is_file():
            found = _converted(found, cache)
        return found if (found / "config.json").is_file() and weight_files(found) else None
    except (Refusal, OSError, ValueError):
        return None


def load(folder: Path, *, dtype: torch.dtype, device: str) -> BaseModel:
    """The model of a prepared folder, in `dtype` on `device`.

    In torch.int8 its linears have weights of 8 bits, and all else is bfloat16 (`int8_linear.py`). Attention is by
    `scaled_dot_product_attention` where the family has it, else as the family computes it itself.
    Raises: Refusal `unknown_model_size` if the folder holds no causal language model that transformers knows, or not
    all of its weights; `unsupported_model` if the engine does not run its kind.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from guideway.workers.engine.kernels.linears.int8_linear import keep_linears_in_int8

    logging.disable_progress_bar()
    int8 = dtype == torch.int8
    if int8 and torch.device(device).type != "cpu":
        raise unsupported_int8(f"it is for CPUs, and the device is {device!r}")
    identity = identify(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, told = _load_weights(folder, torch.bfloat16 if int8 else dtype)
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        # transformers and the libraries below it may raise anything; a second try would end the same way.
        why = f"{type(error).__name__}: {error}"
        raise _missing(f"model folder {folder} does not load ({why}): prepare the model again") from error
    if absent := sorted({*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])}):
        raise _missing(
            f"model folder {folder} lacks weights or has them in other shapes ({', '.join(absent[:3])}"
            f"{', …' if absent[3:] else ''}): prepare the model again, whole"
        )
    model = model.to(device).eval().requires_grad_(False)
    if int8:
        check_int8(settings_of(model.config))
        if (share := keep_linears_in_int8(model)) < _INT8_SHARE:
            raise unsupported_int8(f"only {share:.0%} of its weights stand in linear modules")
    text_config = model.config.get_text_config()
    ends = [model.generation_config.eos_token_id, text_config.eos_token_id, tokenizer.eos_token_id]
    eos_ids = {id_ for end in ends for id_ in (end if isinstance(end, list | tuple) else [end]) if id_ is not None}
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        fingerprint=in_dtype(identity.fingerprint, "int8" if int8 else ""),
        former_fingerprint="" if int8 else identity.former,
        eos_ids=frozenset(eos_ids) | chat_end_ids(tokenizer),
        context_tokens=context_of(settings_of(model.config)) or _UNLIMITED,
    )


def _load_weights(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model, and what transformers tells of its loading.

    Raises: Refusal `unsupported_model` before the weights are read, if the configuration says enough.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_kind(settings_of(config))
    load = partial(
        AutoModelForCausalLM.from_pretrained,
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        # Otherwise weights that do not fit are drawn at random in silence; so `load` is told, and refuses them.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    try:
        loaded: tuple[PreTrainedModel, Mapping[str, Any]] = load(attn_implementation="sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        loaded = load(attn_implementation="eager")
    return loaded


def _missing(message: str) -> Refusal:
    return Refusal(FailureCode.UNKNOWN_MODEL_SIZE, message)


def _in_package(source: str) -> Path:
    package, _, file = source.removeprefix("package:").partition("/")
    if not package or not file or ".." in Path(file).parts:
        raise _missing(f"model source {source!r} is not of the form package:NAME/FILE.gguf: write it so")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise _missing(f"Python package {package!r} of model source {source!r} is not installed: install it")
    for folder in spec.submodule_search_locations:
        if (path := Path(folder) / file).exists():
            return path.resolve()
    raise _missing(f"Python package {package!r} has no file {file!r}: correct model source {source!r}")


def _from_hub(name: str, progress: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download

    progress(f"fetching {name} from the model hub")
    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except (OSError, ValueError) as error:
        raise _missing(
            f"model {name!r} is not on this machine and the hub did not give it ({error}): name another source"
        ) from error
    if not weight_files(folder):
        raise _missing(f"model {name!r} has no safetensors: name a repository that has")
    return folder


def _converted(file: Path, cache: Path) -> Path:
    """Where the converted model of a GGUF file is, or would be."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return cache / f"{file.stem}-{digest[:16]}-{_CONVERSION}"


def _from_gguf(file: Path, cache: Path, progress: Callable[[str], None]) -> Path:
    target = _converted(file, cache)
    if target.is_dir():
        return target
    progress(f"converting {file.name} to safetensors, once; this takes about half a minute per 100 MB")
    cache.mkdir(parents=True, exist_ok=True)
    work = cache / f".{target.name}.{uuid.uuid4().hex}"
    try:
        _convert(file, work)
        try:
            work.rename(target)
        except OSError:
            # Another process was first. A folder is renamed into place only when it is complete, so theirs is as good.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _convert(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file as float32 safetensors, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise _missing(f"{file.name} is not a GGUF file that transformers can read ({error}): name another") from error
    values = quantised.config.to_dict()
    # A model from GGUF refuses save_pretrained as long as its configuration says that it is quantised.
    values.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
