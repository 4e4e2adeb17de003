"""The trainable part of each method on a frozen model: PEFT's, except guideway's own inserted layers."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, assert_never

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.fitting.trainable import Trainable
from guideway.training.runs.task_methods import (
    Ia3Method,
    InsertedLayerMethod,
    LoraMethod,
    Method,
    PrefixMethod,
    PTuningMethod,
    SoftPromptMethod,
)
from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.guidance.target_modules import decoder_layers
from guideway.workers.engine.model.base_model import BaseModel

_ADAPTER: Final = "default"


@contextlib.contextmanager
def trainable(method: Method, base: BaseModel, *, initial_text: str, model_name: str) -> Iterator[Trainable]:
    """The trainable part of `method` on `base`, whose weights do not change. Draws from torch's generator.

    initial_text: what virtual tokens begin as, if the method does not say. model_name: is written into PEFT's folder.
    PEFT may wrap modules of `base`; then `base` can be used for this method only.

    Raises: Refusal `invalid_setting` for targets or layers that the model does not have.
    """
    match method:
        case SoftPromptMethod() | PTuningMethod():
            yield _soft_prompt(method, base, initial_text, model_name)
        case PrefixMethod():
            yield _prefix(method, base, initial_text, model_name)
        case LoraMethod():
            alpha = method.alpha or 2 * method.rank
            config = peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=method.rank,
                lora_alpha=alpha,
                lora_dropout=method.dropout,
                target_modules=method.targets or None,
            )
            yield _adapter(config, base, model_name)
        case Ia3Method():
            config = peft.IA3Config(
                task_type="CAUSAL_LM",
                target_modules=method.targets or None,
                feedforward_modules=(method.feedforward if method.targets else method.feedforward or None),
            )
            yield _adapter(config, base, model_name)
        case InsertedLayerMethod():
            layer = _inserted_layer(method, base)
            with layer.inserted(base.model):
                yield Trainable(base.model, layer, layer.save)
        case _:
            assert_never(method)


def _soft_prompt(
    method: SoftPromptMethod | PTuningMethod, base: BaseModel, initial_text: str, model_name: str
) -> Trainable:
    count = method.virtual_tokens
    if isinstance(method, PTuningMethod):
        config: Any = peft.PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=count, encoder_hidden_size=method.encoder_hidden_size
        )
    else:
        # RANDOM: with TEXT, PEFT would write the tokenizer's path into its folder. The start is set below.
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count, prompt_tuning_init="RANDOM")
    adapted = _adapted(base.model, config)
    encoder = adapted.prompt_encoder[_ADAPTER].float()
    begin = text_embeddings(base, method.initial_text or initial_text, count)
    if isinstance(method, PTuningMethod):
        _begin_encoder(encoder, begin)
    else:
        encoder.embedding.weight.data.copy_(begin)
    tokens = torch.arange(count, device=begin.device)
    return Trainable(
        base.model,
        encoder,
        lambda folder: _save(adapted, folder, model_name, torch.float32),
        soft=lambda: encoder(tokens),
        virtual_tokens=count,
    )


def _begin_encoder(encoder: Any, begin: Tensor) -> None:
    """Let a P-tuning encoder begin at the embeddings `begin` [virtual, hidden], by solving for its last layer.

    With random weights it would begin as noise far from all tokens, and a short training would not get it back.
    """
    *inner, head = encoder.mlp_head
    with torch.no_grad():
        features = torch.nn.Sequential(*inner)(encoder.embedding.weight)
        mean = begin.mean(0)
        # There are fewer virtual tokens than features: the smallest weights that give exactly these outputs.
        head.weight.copy_((torch.linalg.pinv(features) @ (begin - mean)).T)
        head.bias.copy_(mean)


def _prefix(method: PrefixMethod, base: BaseModel, initial_text: str, model_name: str) -> Trainable:
    count = method.virtual_tokens
    config = base.model.config.get_text_config()
    adapted = _adapted(
        base.model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count, prefix_projection=False)
    )
    encoder = adapted.prompt_encoder[_ADAPTER].float()
    begin = text_states(base, method.initial_text or initial_text, count)
    layers, _, heads, _, dim = begin.shape
    if encoder.embedding.weight.shape[1] != layers * 2 * heads * dim:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"a model of type {config.model_type!r} keeps keys and values in a form that prefixes do not have: "
            "train a soft prompt or an adapter",
        )
    encoder.embedding.weight.data.copy_(begin.permute(3, 0, 1, 2, 4).reshape(count, -1))
    return Trainable(
        base.model,
        encoder,
        lambda folder: _save(adapted, folder, model_name, torch.float32),
        prefix=lambda: encoder.embedding.weight.view(count, layers, 2, heads, dim).permute(1, 2, 3, 0, 4),
        virtual_tokens=count,
    )


def _adapter(config: Any, base: BaseModel, model_name: str) -> Trainable:
    try:
        adapted = _adapted(base.model, config)
    except ValueError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{' '.join(str(error).split())}: set the method's `targets`"
        ) from None
    # bfloat16 halves the file. IA3 has few numbers, close to 1, where bfloat16 is coarse.
    dtype = torch.bfloat16 if isinstance(config, peft.LoraConfig) else torch.float32
    return Trainable(base.model, adapted, lambda folder: _save(adapted, folder, model_name, dtype))


def _inserted_layer(method: InsertedLayerMethod, base: BaseModel) -> TrainableInsertedLayer:
    layers = len(decoder_layers(base.model))
    after = method.after_layers or sorted({max(0, layers // 3 - 1), max(0, 2 * layers // 3 - 1)})
    if max(after) >= layers:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"after_layers names layer {max(after)}, and the model has {layers}, from 0 on: name others",
        )
    return TrainableInsertedLayer(
        base.model, after_layers=after, bottleneck=method.bottleneck, activation=method.activation
    )


def _adapted(model: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        # PEFT uses an old name of transformers.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return peft.get_peft_model(model, config)


def text_embeddings(base: BaseModel, text: str, count: int) -> Tensor:
    """[count, hidden] float32: the embeddings of `text`, repeated or cut; of frequent words if it is empty."""
    ids = torch.tensor(_repeated(base, text, count), device=base.model.device)
    embeddings: Tensor = base.model.get_input_embeddings()(ids).detach().float()
    return embeddings


def text_states(base: BaseModel, text: str, count: int) -> Tensor:
    """[layers, 2, kv_heads, count, head_dim] float32: keys and values of `text` as the first `count` tokens."""
    ids = torch.tensor([_repeated(base, text, count)], device=base.model.device)
    with torch.no_grad():
        cache = base.model(input_ids=ids, use_cache=True).past_key_values
    states = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    return torch.stack(states).float()


def _repeated(base: BaseModel, text: str, count: int) -> Sequence[int]:
    ids: list[int] = base.tokenizer.encode(text or "Read this and answer:", add_special_tokens=False)
    return (ids * math.ceil(count / len(ids)))[:count]


def _save(adapted: Any, folder: Path, model_name: str, dtype: torch.dtype) -> None:
    """Write a PEFT folder without paths of this machine. The same weights give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().to(dtype).contiguous()
        for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapted.peft_config[_ADAPTER]
    config.base_model_name_or_path = model_name
    config.inference_mode = True
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(found := getattr(config, name, None), set):
            setattr(config, name, sorted(found))  # a set's order changes from run to run
    config.save_pretrained(folder)
