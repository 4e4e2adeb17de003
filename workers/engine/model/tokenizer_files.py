"""The files beside a model that decide how text becomes tokens, tokens become text, and parts become a prompt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

_RAW: Final = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")
"""Read where there is no tokenizer.json, which holds all that these hold."""

_HARMLESS: Final = frozenset(
    {
        # Where it comes from, and which program wrote it
        "auto_map", "backend", "is_local", "local_files_only", "name_or_path", "processor_class", "tokenizer_file",
        "special_tokens_map_file", "transformers_version",
        # The engine cuts and pads by itself
        "max_length", "model_input_names", "model_max_length", "pad_to_multiple_of", "pad_token", "pad_token_type_id",
        "padding_side", "stride", "truncation_side", "truncation_strategy",
        # Roles of tokens that are in the vocabulary
        "added_tokens_decoder", "additional_special_tokens", "cls_token", "extra_special_tokens", "mask_token",
        "sep_token",
        # In a part of its own
        "chat_template",
    }
)  # fmt: skip
"""Settings of tokenizer_config.json that change nothing. A setting that is not listed counts."""

_FALSE_IF_ABSENT: Final = frozenset(
    {"byte_fallback", "clean_up_tokenization_spaces", "fuse_unk", "ignore_merges", "split_special_tokens"}
)
"""Only some versions of transformers write these where they are false."""


def tokenizer_identity(folder: Path) -> dict[str, Any]:
    """Vocabulary, merges, normaliser, special tokens and chat template of `folder`, in one form; empty without any.

    Raises: OSError or ValueError if a file cannot be read.
    """
    config = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    whole = _read(folder / "tokenizer.json")
    found = {
        "tokenizer": _core(whole) if whole else _digests(folder),
        "settings": {key: _plain(value) for key, value in config.items() if key not in _HARMLESS},
        "chat": _templates(folder, config),
    }
    if "tokenizer_class" in config:
        found["settings"]["tokenizer_class"] = _class(str(config["tokenizer_class"]))
    plain: dict[str, Any] = _plain(found)
    return plain


def _core(whole: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json without cutting and padding; merges as pairs, as newer versions write them."""
    core = {key: value for key, value in whole.items() if key not in {"version", "truncation", "padding"}}
    model = dict(core.get("model") or {})
    if merges := model.get("merges"):
        model["merges"] = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
    return {**core, "model": model}


def _digests(folder: Path) -> dict[str, str]:
    files = [folder / name for name in _RAW]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def _templates(folder: Path, config: dict[str, Any]) -> Any:
    """The chat template, wherever a version of transformers puts it; several have names."""
    files = {file.stem: file.read_text("utf-8") for file in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    single = folder / "chat_template.jinja"
    if single.is_file():
        files["default"] = single.read_text("utf-8")
    if not files:
        told = config.get("chat_template") or _read(folder / "chat_template.json").get("chat_template")
        named = told if isinstance(told, list) else [{"name": "default", "template": told}] if told else []
        files = {item["name"]: item["template"] for item in named}
    return files


def _class(name: str) -> str:
    """Versions call one class by several names."""
    name = name.removesuffix("Fast")
    return "" if name in {"PreTrainedTokenizer", "TokenizersBackend"} else name


def _plain(value: Any) -> Any:
    """`value` without nulls, and with tokens as texts where a version writes them as objects."""
    match value:
        case {"__type": "AddedToken", "content": str(content)}:
            return content
        case {"content": str(content), "lstrip": _, **others} if "id" not in others:
            return content
        case dict():
            return {
                key: _plain(item)
                for key, item in value.items()
                if item is not None and not (item is False and key in _FALSE_IF_ABSENT)
            }
        case list():
            return [_plain(item) for item in value]
        case _:
            return value


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no object")
    return found
