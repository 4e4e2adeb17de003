"""Inserted layers: reading the folder, and the batched form against a plain loop over rows and blocks."""

from __future__ import annotations

import ctypes
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact
from torch import Tensor, nn
from transformers import LlamaModel

from guideway.catalogue.adapters.forms import Activation
from guideway.schemas.failures import Refusal
from guideway.workers.engine.guidance.batched_inserted_layers import BatchedInsertedLayers
from guideway.workers.engine.guidance.inserted_layer import Block, InsertedLayer
from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.guidance.target_modules import decoder_layers
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.layers.native_inserted import NativePlace
from guideway.workers.engine.model.base_model import BaseModel

KINDS: list[Activation] = ["gelu", "silu", "relu"]


def reference(h: Tensor, rows: Sequence[Sequence[Block]]) -> Tensor:
    """One row after the other, one block after the other, in float64; h [rows, tokens, hidden]."""
    result = []
    for blocks, one in zip(rows, h.double(), strict=True):
        for block in blocks:
            normed = one / (one.pow(2).mean(-1, keepdim=True) + block.norm_eps).sqrt()
            inner: Tensor = getattr(nn.functional, block.activation)(normed @ block.down.double().T)
            one = one + inner @ block.up.double()  # noqa: PLW2901
        result.append(one)
    return torch.stack(result)


def block(chance: random.Random, hidden: int) -> Block:
    r = chance.choice([1, 3, 8, 20])
    down, up = torch.randn(r, hidden) * 0.3, torch.randn(r, hidden) * 0.3
    return Block(down, up, chance.choice(KINDS), chance.choice([1e-6, 1e-2]))


@pytest.mark.parametrize("by_kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_batched_blocks_equal_a_loop_while_rows_come_and_leave(
    base: BaseModel,
    dtype: torch.dtype,
    by_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if by_kernels:
        request.getfixturevalue("kernels")
    else:
        monkeypatch.setattr(native, "kernels_for", lambda model: None)
    layer = nn.Identity()
    assert isinstance(base.model.model, LlamaModel)
    base.model.model.layers[1] = layer
    batched = BatchedInsertedLayers(base.model, max_rows=9)
    chance = random.Random(2)
    shelf = [block(chance, 64) for _ in range(5)]
    rows: list[list[Block]] = []
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for _ in range(80):
        if len(rows) < 9 and chance.random() < 0.6:
            rows.append(chance.choices(shelf, k=chance.randint(0, 3)))
            batched.seat(len(rows) - 1, [InsertedLayer({1: one}) for one in rows[-1]])
        elif rows:
            slot = chance.randrange(len(rows))
            batched.leave(slot, len(rows) - 1)
            rows[slot] = rows[-1]
            rows.pop()
        if rows:
            first, stop = sorted(chance.sample(range(len(rows) + 1), 2))
            batched.see(slice(first, stop))
            h = torch.randn(stop - first, chance.choice([1, 4]), 64).to(dtype)
            expected = reference(h, rows[first:stop])
            torch.testing.assert_close(layer(h).double(), expected, rtol=tolerance, atol=10 * tolerance)
        if rows and by_kernels:
            counts = [chance.choice([1, 1, 2, 30]) for _ in range(first, stop)]
            batched.see(slice(first, stop), counts)
            each = [torch.randn(1, count, 64).to(dtype) for count in counts]
            ragged = torch.cat([reference(h, [own]) for h, own in zip(each, rows[first:stop], strict=True)], 1)
            ours = layer(torch.cat(each, 1)).double()
            torch.testing.assert_close(ours, ragged, rtol=tolerance, atol=10 * tolerance)
        assert bool(layer._forward_hooks) == bool(batched.places) == any(rows)


@torch.inference_mode()
def test_a_pass_of_other_tokens_than_told_is_refused(base: BaseModel, kernels: ctypes.CDLL) -> None:
    """The kernel trusts the numbers that it is given."""
    layer = nn.Identity()
    place = NativePlace(layer, 2, kernels)
    place.seat(0, [block(random.Random(0), 64)])
    place.see(slice(0, 2), [1, 3])
    for h in (torch.randn(1, 5, 64), torch.randn(1, 2, 128), torch.randn(1, 4, 64).double()):
        with pytest.raises(ValueError, match="inserted layers got"):
            layer(h)


def test_a_saved_layer_is_read_as_it_was_trained(base: BaseModel, tmp_path: Path) -> None:
    layer = TrainableInsertedLayer(base.model, after_layers=[1, 0], bottleneck=3, activation="relu", norm_eps=1e-3)
    for parameter in layer.parameters():
        parameter.data.normal_()
    layer.save(tmp_path)
    loaded = InsertedLayer.load(tmp_path, base.model)
    assert sorted(loaded.blocks) == [0, 1]
    h = torch.randn(2, 4, 64)
    for k, one in loaded.blocks.items():
        torch.testing.assert_close(layer.blocks[str(k)](h).double(), reference(h, [[one]] * 2), rtol=1e-4, atol=1e-4)
    assert loaded.nbytes == 4 * 2 * 2 * 3 * 64
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in base.model.parameters())


def test_it_begins_as_nothing(base: BaseModel, tmp_path: Path) -> None:
    ids = torch.arange(6)[None]
    bare = base.model(ids).logits
    layer = TrainableInsertedLayer(base.model, after_layers=[0, 1], bottleneck=3)
    with layer.inserted(base.model):
        assert torch.equal(base.model(ids).logits, bare)
    layer.save(tmp_path)
    batched = BatchedInsertedLayers(base.model, max_rows=1)
    batched.seat(0, [InsertedLayer.load(tmp_path, base.model)])
    batched.see(slice(0, 1))
    assert torch.equal(base.model(ids).logits, bare)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version"),
        ({"guideway_type": "OTHER"}, "'OTHER'"),
        ({"after_layers": [0, 2]}, "the model has 2 layers"),
        ({"after_layers": [0, 0]}, "names a layer twice"),
        ({"after_layers": []}, "after_layers"),
        ({"after_layers": [1]}, "asks for none"),
        ({"hidden_size": 32}, "layers of size 64"),
        ({"bottleneck": 5}, "its configuration asks for"),
        ({"activation": "tanh"}, "activation"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    base: BaseModel, make_inserted_layer: MakeArtefact, change: dict[str, Any], says: str
) -> None:
    folder = Path(make_inserted_layer("a/b@1").folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(Refusal, match=says):
        InsertedLayer.load(folder, base.model)


def test_tensors_that_do_not_fit_are_refused(base: BaseModel, make_inserted_layer: MakeArtefact) -> None:
    folder = Path(make_inserted_layer("a/b@1").folder)
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    key = "after_layers.1.up.weight"
    for tensors in (
        whole | {key: whole[key].T.contiguous()},
        {name: tensor for name, tensor in whole.items() if name != key},
        whole | {"more": whole[key].clone()},
    ):
        save_file(tensors, file)
        with pytest.raises(Refusal, match="its configuration asks for"):
            InsertedLayer.load(folder, base.model)


def test_a_model_without_a_list_of_layers_takes_none(base: BaseModel) -> None:
    base.model.config.num_hidden_layers = 7
    with pytest.raises(Refusal, match="no list of 7 layers"):
        decoder_layers(base.model)
