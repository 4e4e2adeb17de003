"""The types of folders that hold trained guidance, and the known settings of PEFT's folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guideway.schemas.manifests import TrainedForm

FORMS: Final[Mapping[str, TrainedForm]] = {
    "PROMPT_TUNING": "soft_prompt",
    "P_TUNING": "soft_prompt",
    "PREFIX_TUNING": "prefix",
    "LORA": "lora",
    "IA3": "ia3",
    "INSERTED_LAYER": "inserted_layer",
}
"""The guidance form of each type of folder; the last is guideway's own, the others are PEFT's."""

KNOWN: Final = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
"""Settings of every PEFT folder."""

PROMPT_UNSUPPORTED: Final = ("modules_to_save",)
PROMPT_KNOWN: Final = (
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
)
"""Settings of prompts. Those of training have no effect on serving."""

LORA_UNSUPPORTED: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
"""Settings of PEFT with which a LoRA needs more than its two factors."""

LORA_KNOWN: Final = (
    "alpha_pattern",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "runtime_config",
    "target_modules",
    "use_dora",
    "use_rslora",
    "velora_config",
)
"""Settings that are used here, that the tensors' names repeat (`targets` compares them), or of training only."""

IA3_UNSUPPORTED: Final = ("modules_to_save",)
"""Settings of PEFT with which an IA3 needs more than its vectors."""

IA3_KNOWN: Final = ("exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_ia3_weights", "target_modules")
"""Settings that the tensors' names and shapes repeat, or that concern training only."""
