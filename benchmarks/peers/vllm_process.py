"""vLLM in an environment of its own: one JSON command per line of standard input, one JSON answer per line of output.

    python vllm_process.py FOLDER MAX_LORAS

FOLDER holds the model in bfloat16 or float32 safetensors; it runs in bfloat16 with prefix caching. A command has
`prompts` (token ids of each row), `new_tokens` (each row makes so many), and may have `choice` (the labels that a row
chooses from; it then ends with the label) and `loras` (a folder for each row). The answer is {"seconds": s}.

Nothing of guideway is imported, because this environment does not have it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any


def load(folder: str, max_loras: int) -> Any:
    vllm = importlib.import_module("vllm")
    adapters = {"enable_lora": True, "max_loras": max_loras, "max_lora_rank": 8} if max_loras else {}
    return vllm.LLM(
        model=folder,
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=64,
        enable_prefix_caching=True,
        block_size=32,  # the smallest that its kernels are made for; a shared beginning shorter than one is not shared
        disable_log_stats=True,
        **adapters,
    )


def run(model: Any, command: dict[str, Any]) -> float:
    """Seconds of all rows of `command`."""
    vllm = importlib.import_module("vllm")
    settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": command["new_tokens"]}
    if labels := command.get("choice"):
        outputs = importlib.import_module("vllm.sampling_params").StructuredOutputsParams(choice=labels)
        settings["structured_outputs"] = outputs
    else:
        settings |= {"ignore_eos": True, "min_tokens": command["new_tokens"]}
    adapters = None
    if folders := command.get("loras"):
        request = importlib.import_module("vllm.lora.request").LoRARequest
        numbers = {folder: number for number, folder in enumerate(dict.fromkeys(folders), start=1)}
        adapters = [request(f"lora{numbers[folder]}", numbers[folder], folder) for folder in folders]
    prompts = [{"prompt_token_ids": ids} for ids in command["prompts"]]
    # What earlier commands left there would answer whole prompts, and not only their shared beginning.
    if not model.reset_prefix_cache():
        raise RuntimeError("the prefix cache is not empty")
    began = time.perf_counter()
    found = model.generate(prompts, vllm.SamplingParams(**settings), lora_request=adapters, use_tqdm=False)
    spent = time.perf_counter() - began
    if len(found) != len(prompts) or not all(one.outputs[0].token_ids for one in found):
        raise RuntimeError("a row has no answer")
    return spent


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what vLLM prints goes to standard error
    model = load(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(model, json.loads(line))}), file=answers)


if __name__ == "__main__":
    main()
