"""Artefacts of strangers, before they are published: whatever is wrong is told, and nothing else happens."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from guideway.catalogue.adapters.adapter import check_finite, parse_adapter
from guideway.catalogue.adapters.forms import check_folder
from guideway.catalogue.artefacts.contents import MAX_TEXT_BYTES
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.documents.manifest_files import upload
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance, TrainedForm

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
IA3 = {"peft_type": "IA3", "target_modules": ["q_proj"]}
INSERTED = {
    "guideway_type": "INSERTED_LAYER",
    "format_version": 1,
    "after_layers": [0],
    "bottleneck": 2,
    "hidden_size": 8,
}


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.full(shape, 0.5).astype(dtype)


TENSORS: dict[TrainedForm, dict[str, np.ndarray[Any, Any]]] = {
    "lora": {f"{MODULE}.lora_A.weight": numbers(2, 8), f"{MODULE}.lora_B.weight": numbers(8, 2)},
    "soft_prompt": {"prompt_embeddings": numbers(3, 8)},
    "prefix": {"prompt_embeddings": numbers(3, 8)},
    "ia3": {f"{MODULE}.ia3_l": numbers(8, 1)},
    "inserted_layer": {
        "after_layers.0.norm.weight": numbers(8),
        "after_layers.0.down.weight": numbers(2, 8),
        "after_layers.0.up.weight": numbers(8, 2),
    },
}
CONFIGS: dict[TrainedForm, dict[str, Any]] = {
    "lora": LORA,
    "soft_prompt": PROMPT,
    "prefix": PROMPT | {"peft_type": "PREFIX_TUNING"},
    "ia3": IA3,
    "inserted_layer": INSERTED,
}


def files(form: TrainedForm, config: str | bytes | None = None, weights: bytes | None = None) -> dict[str, bytearray]:
    text = json.dumps(CONFIGS[form]) if config is None else config
    return {
        "adapter_config.json": bytearray(text if isinstance(text, bytes) else text.encode()),
        "adapter_model.safetensors": bytearray(save(TENSORS[form]) if weights is None else weights),
    }


def refused(made: dict[str, bytearray], form: TrainedForm = "lora") -> str:
    with pytest.raises(Refusal) as caught:
        check_folder(made, form)
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
    assert not caught.value.code.retryable
    assert 20 < len(caught.value.message.encode()) < 1000
    return caught.value.message


@pytest.mark.parametrize("form", CONFIGS)
def test_what_is_whole_is_taken(form: TrainedForm) -> None:
    check_folder(files(form), form)


NEST = 100_000


@pytest.mark.parametrize(
    "config",
    [
        "[" * NEST,
        '{"a":' * NEST + "1" + "}" * NEST,
        json.dumps(LORA)[:-1] + ', "x": ' + "[" * NEST + "]" * NEST + "}",
        '{"peft_type": "LORA", "peft_type": "IA3"}',
        json.dumps(LORA).replace("4", "NaN"),
        json.dumps(LORA).replace("4", "-Infinity"),
        json.dumps(LORA).replace("4", "1e400"),
        json.dumps(LORA).replace("4", "9" * 5000),
        b"\xff\xfe{}",
        json.dumps(LORA).encode("utf-16"),
        "",
        "[]",
        "null",
        "{" + " " * MAX_TEXT_BYTES + "}",
        json.dumps(LORA | {"peft_type": "\ud800" * 5000}),
        json.dumps(LORA | {"bias": "\ud800" * 5000}),
        json.dumps(LORA | {"\ud800": 1}),
        json.dumps(LORA | {"peft_type": ["LORA"] * 5000}),
        json.dumps(LORA | {"peft_type": None}),
    ],
)
def test_a_configuration_that_is_none_is_damaged(config: str | bytes) -> None:
    refused(files("lora", config))


WRONG_NUMBERS: list[Any] = [None, "8", -1, 0, True, 1e300, [8], {}, 10**30]


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in ("r", "lora_alpha") for value in WRONG_NUMBERS),
        {"r": 2.5},
        {"r": 513},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"q_proj": "2"}},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": {"(a+)+$": 0}},
        {"rank_pattern": {r"(q)\1": 2}},
        {"alpha_pattern": {f"a{n}": 1 for n in range(2001)}},
        {"alpha_pattern": {"(.*a){9}" * 20 + str(n): 1 for n in range(1900)}},
        {"use_rslora": "false"},
        {"use_dora": "no"},
        {"bias": ["none"]},
        {"init_lora_weights": ["pissa"], "use_qalora": "x"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "OLoRA"},
    ],
)
def test_a_setting_of_lora_that_cannot_be_is_damaged(change: dict[str, Any]) -> None:
    refused(files("lora", json.dumps(LORA | change)))


@pytest.mark.parametrize("form", ["soft_prompt", "prefix"])
@pytest.mark.parametrize("tokens", [None, "3", 3.0, True, -3, 0, 4, [3]])
def test_a_number_of_virtual_tokens_that_cannot_be_is_damaged(form: TrainedForm, tokens: Any) -> None:
    refused(files(form, json.dumps(CONFIGS[form] | {"num_virtual_tokens": tokens})), form)


@pytest.mark.parametrize(
    "change",
    [{"after_layers": [-1]}, {"bottleneck": 5000}, {"hidden_size": "8"}, {"norm_eps": None}],
)
def test_a_setting_of_an_inserted_layer_that_cannot_be_is_damaged(change: dict[str, Any]) -> None:
    refused(files("inserted_layer", json.dumps(INSERTED | change)), "inserted_layer")


# The weights ---------------------------------------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        file_of(b" " * (MAX_TEXT_BYTES + 1)),
        file_of(b"[" * NEST),
        file_of(b"[]"),
        file_of(b'{"a":1,"a":1}'),
        file_of({"__metadata__": {"a": 1}}),
        file_of({"__metadata__": []}),
        file_of({}, b"nobody's"),
        file_of({"a": entry()}),
        file_of({"a": entry()}, b"12345"),
        file_of({"a": entry(offsets=(1, 5))}, b"12345"),
        file_of({"a": entry(), "b": entry()}, b"1234"),
        file_of({"a": entry(), "b": entry(offsets=(8, 12))}, b"123456789abc"),
        file_of({"a": entry(offsets=(4, 0))}, b"1234"),
        file_of({"a": entry(offsets=(-4, 0))}, b"1234"),
        file_of({"a": entry(offsets=(0, 2**63))}, b"1234"),
        file_of({"a": entry(offsets=(0, 4, 8))}, b"1234"),
        file_of({"a": entry(shape=(2**40, 2**40))}, b"1234"),
        file_of({"a": entry(shape=(2**64, 0))}, b""),
        file_of({"a": entry(shape=(-1, -1))}, b"1234"),
        file_of({"a": entry(shape=(1,) * 50_000)}, b"1234"),
        file_of({"a": entry(shape="1")}, b"1234"),
        file_of({"a": entry(shape=(True,))}, b"1234"),
        file_of({"a": entry(shape=(1.0,))}, b"1234"),
        file_of({"a": entry(dtype=["F32"])}, b"1234"),
        *(file_of({"a": entry(dtype=dtype)}, b"1234") for dtype in ("I32", "U32", "f32", ">f4", "F8_E4M3", "BOOL", "")),
        file_of({"a": {"dtype": "F32"}}),
        file_of({"a": 1}),
        file_of({"a": entry() | {"more": 1}}, b"1234"),
        file_of({"\ud800": entry()}, b"1234"),
        file_of({"\n": entry()}, b"1234"),
        file_of({"a" * 600: entry()}, b"1234"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_damaged(weights: bytes) -> None:
    refused(files("lora", weights=weights))


@pytest.mark.parametrize("form", CONFIGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_weight_that_is_no_number_is_damaged(form: TrainedForm, value: float, dtype: Any) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in TENSORS[form].items()}
    check_folder(files(form, weights=save(tensors)), form)
    tensors[next(iter(tensors))].flat[-1] = value
    assert "not finite" in refused(files(form, weights=save(tensors)), form)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
def test_a_bfloat16_that_is_no_number_is_damaged(bits: int) -> None:
    for value in (0x3F80, bits):
        weights = file_of({"a": entry("BF16", (2,))}, struct.pack("<HH", 0x3F80, value))
        made = parse_adapter(files("lora", weights=weights))
        if value == bits:
            with pytest.raises(Refusal, match="not finite"):
                check_finite(made)
        else:
            check_finite(made)


def test_a_float64_beyond_float32_is_damaged() -> None:
    assert "not finite" in refused(files("ia3", weights=save({f"{MODULE}.ia3_l": np.full((8, 1), 1e300)})), "ia3")


@pytest.mark.parametrize("form", CONFIGS)
def test_tensors_that_are_missing_or_too_many_are_damaged(form: TrainedForm) -> None:
    refused(files(form, weights=save(TENSORS[form] | {"more": numbers(1)})), form)
    refused(files(form, weights=save({})), form)
    refused(files(form, weights=save({name: numbers(0, 0) for name in TENSORS[form]})), form)
    many = {f"tensor {number} {'x' * 400}": numbers(1) for number in range(2000)}
    refused(files(form, weights=save(many)), form)


@pytest.mark.parametrize("form", CONFIGS)
def test_bytes_that_are_changed_are_taken_or_damaged(form: TrainedForm) -> None:
    """Nothing but a refusal leaves it, whatever the bytes are."""
    chance, whole = random.Random(form), files(form)
    for _ in range(600):
        made = {name: bytearray(content) for name, content in whole.items()}
        content = made[chance.choice(sorted(made))]
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(content) or 1)
            match chance.randrange(4):
                case 0:
                    content[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del content[at : at + chance.randint(1, 20)]
                case 2:
                    content[at:at] = content[: chance.randint(1, 30)]
                case 3:
                    content[at : at + 1] = chance.choice([b"null", b'"', b"{", b"]", b"-", b"1e400", b"\xff", b"NaN"])
        try:
            check_folder(made, form)
        except Refusal as refusal:
            assert refusal.code is FailureCode.GUIDANCE_DAMAGED  # noqa: PT017


def test_it_is_told_when_it_is_applied_by_file_and_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, content in files("lora", json.dumps(LORA | {"rank_pattern": {"(": 8}})).items():
        (tmp_path / "a" / name).write_bytes(content)
    digest = f"sha256:{'0' * 64}"
    guidance = Guidance(namespace="team", name="tone", form="lora", artefact="a", model_fingerprint=digest)
    with pytest.raises(Refusal, match=r"m\.yaml: tone: `rank_pattern`: its pattern '\(' lacks a `\)`") as caught:
        upload(tmp_path / "m.yaml", guidance, ArtefactStore(str(tmp_path / "store")))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("form", "config", "words"),
    [
        ("lora", {"target_modules": ["v_proj"]}, "which its `target_modules` ['v_proj'] do not name"),
        ("ia3", {"target_modules": ["model.k_proj"]}, "which its `target_modules` ['k_proj'] do not name"),
        ("lora", {"exclude_modules": ["q_proj"]}, "which its `exclude_modules` leave out"),
        ("lora", {"exclude_modules": ["layers.0.self_attn.q_proj"]}, "which its `exclude_modules` leave out"),
        ("lora", {"exclude_modules": ["layers.1.self_attn.q_proj", "oj"]}, ""),
        ("lora", {"layers_to_transform": [[0]]}, "its `layers_to_transform` are [[0]]"),
        ("lora", {"layers_to_transform": [1, 2]}, "its `layers_to_transform` are [1, 2]"),
        ("lora", {"layers_to_transform": 1}, "its `layers_to_transform` are 1"),
        ("lora", {"target_modules": ["language_model.layers.0.self_attn.q_proj"], "layers_to_transform": 0}, ""),
        ("lora", {"target_modules": "all-linear", "layers_to_transform": []}, ""),
        ("lora", {"target_modules": r".*\.(q|v)_proj", "exclude_modules": None}, ""),
        ("lora", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0]}, ""),
        ("ia3", {"target_modules": None}, ""),
    ],
)
def test_tensors_that_the_configuration_leaves_out_are_told(
    form: TrainedForm, config: dict[str, Any], words: str
) -> None:
    made = files(form, json.dumps(CONFIGS[form] | config))
    if words:
        assert words in refused(made, form)
    else:
        check_folder(made, form)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (json.dumps(LORA)[:-1] + ', "r": 2}', "cannot be read (a name twice)"),
        (json.dumps(LORA)[:-1] + ', "x": NaN}', "cannot be read (NaN is no number of JSON)"),
        (json.dumps(LORA) + "}", "cannot be read (Extra data: line 1"),
        ("\ufeff" + json.dumps(LORA), "cannot be read (Unexpected UTF-8 BOM"),
        (json.dumps(LORA).encode("utf-16"), "cannot be read (it is not UTF-8)"),
        ("[" * 100_000, "cannot be read (it is nested too deeply)"),
    ],
)
def test_why_a_configuration_cannot_be_read_is_told(config: str | bytes, words: str) -> None:
    assert words in refused(files("lora", config))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "is a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(100), "looks like a pickle"),
        (b"\x80\x04." + bytes(100), "looks like a pickle"),
    ],
)
def test_weights_that_are_another_file_are_named(weights: bytes, words: str) -> None:
    assert words in refused(files("lora", weights=weights))
