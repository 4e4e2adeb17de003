"""Requests and replies, made."""

from __future__ import annotations

import json
from typing import Any

from guideway.producers.gateway.openai.parameters import Chat, read_chat, read_completion
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Completed, FailedSample, Sample, Usage


def asked(**more: Any) -> Chat:
    body = {"model": "shop/write", "messages": [{"role": "user", "content": "Hello"}]}
    return read_chat(json.dumps(body | more).encode())


PROMPT = read_completion(b'{"model": "shop/write", "prompt": "Hello"}')


def reply(*values: Any, lost: tuple[int, ...] = (), reason: Any = "stop") -> Completed:
    return Completed(
        id="r-1", namespace="shop", endpoint="write", endpoint_version=3,
        samples=[Sample(value=value, text=str(value), finish_reason=reason) for value in values],
        usage=Usage(prompt_tokens=7, output_tokens=5), guidance=["public/brief@1"], model_fingerprint="sha256:0",
        failed_samples=[FailedSample(sample=one, code=FailureCode.OUTPUT_INCOMPLETE, message="why") for one in lost]
        or None,
    )  # fmt: skip
