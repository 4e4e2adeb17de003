"""The shape of a model: of one that is loaded, or of one that is only a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import msgspec
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from guideway.catalogue.adapters.fitting import in_any_layer, is_expert
from guideway.schemas.kinds.model_shape import KeptStates, LinearModules, ModelShape
from guideway.workers.engine.guidance.target_modules import features, layers_in_list
from guideway.workers.engine.model.kv_cache import kept_shapes

_SHAPES: Final[WeakKeyDictionary[PreTrainedModel, ModelShape]] = WeakKeyDictionary()


def shape_of(model: PreTrainedModel) -> ModelShape:
    """The shape of `model`, without what its layers keep of a token."""
    if model not in _SHAPES:
        config = model.config.get_text_config()
        _SHAPES[model] = ModelShape(
            model_type=config.model_type,
            layers=config.num_hidden_layers,
            hidden=model.get_input_embeddings().weight.shape[1],
            body=model.base_model_prefix,
            insertable=layers_in_list(model) is not None,
            linears=[*_linears(model, config.num_hidden_layers)],
        )
    return _SHAPES[model]


def whole_shape_of(model: PreTrainedModel) -> ModelShape:
    """The shape of `model`; the first call runs one token to see what its layers keep of it."""
    runs = [(len([*run]), one) for one, run in groupby(kept_shapes(model))]
    kept = [KeptStates(layers=count, heads=heads, key=key, value=value) for count, (heads, key, value) in runs]
    return msgspec.structs.replace(shape_of(model), kept=kept)


def shape_in(folder: Path) -> ModelShape | None:
    """The shape of the model in a prepared folder, by its configuration; no weights are read, and none take memory.

    What its layers keep is left out where that cannot be seen without weights. None: nothing can be said of it.
    """
    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            # Its modules are of other kinds once it is loaded.
            return None
        with torch.device("meta"), torch.inference_mode():
            # Without numbers, mixtures of experts multiply in no other type.
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False).eval()
            try:
                return whole_shape_of(model)
            except Exception:
                # Some families look at numbers on their way, and here there are none.
                return shape_of(model)
    except Exception:
        # transformers may raise anything. It is a model all the same, which the worker will try.
        return None
    finally:
        logging.set_verbosity(said)


def _linears(model: PreTrainedModel, layers: int) -> Iterator[LinearModules]:
    found: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for name, module in model.named_modules():
        widths = features(module)
        if widths is not None and not is_expert(name):
            pattern, layer = in_any_layer(name)
            found[pattern, *widths] += [] if layer is None else [layer]
    for (name, inputs, outputs), at in found.items():
        is_in_all = sorted(at) == [*range(layers)]
        yield LinearModules(name=name, inputs=inputs, outputs=outputs, layers=[] if is_in_all else sorted(at))
