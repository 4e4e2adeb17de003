"""A completed reply in OpenAI's form, whole. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from guideway.producers.gateway.openai.parameters import Chat, Completion
from guideway.schemas.reply import Alternative, Completed, Sample, TokenLogprob, Usage

CHAT_ID: Final = "chatcmpl-"
COMPLETION_ID: Final = "cmpl-"


def completion(reply: Completed, asked: Chat | Completion, *, created_s: int) -> dict[str, Any]:
    """The body of an answer. created_s: Unix time in seconds.

    `choices[].index` is the number of the sample; those that failed are left out, and are in `guideway`, which is the
    reply as any caller gets it.
    """
    return {
        **head(reply.id, asked, created_s=created_s, chunk=False),
        "system_fingerprint": reply.model_fingerprint,
        "choices": [_choice(number, sample, asked) for number, sample in numbered(reply)],
        "usage": usage(reply.usage),
        "guideway": whole(reply),
    }


def head(request_id: str, asked: Chat | Completion, *, created_s: int, chunk: bool) -> dict[str, Any]:
    """What each object begins with."""
    if isinstance(asked, Chat):
        name, kind = f"{CHAT_ID}{request_id}", "chat.completion.chunk" if chunk else "chat.completion"
    else:
        name, kind = f"{COMPLETION_ID}{request_id}", "text_completion"
    return {"id": name, "object": kind, "created": created_s, "model": asked.model}


def numbered(reply: Completed) -> list[tuple[int, Sample]]:
    """(number, sample) of the complete samples."""
    lost = {one.sample for one in reply.failed_samples or ()}
    numbers = [number for number in range(len(reply.samples) + len(lost)) if number not in lost]
    return [*zip(numbers, reply.samples, strict=True)]


def content_of(sample: Sample) -> str:
    """The typed value as a text: a string as it is, anything else as JSON."""
    value = sample.value
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def usage(used: Usage) -> dict[str, int]:
    """Tokens."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.prompt_tokens + used.output_tokens,
    }


def whole(reply: Completed) -> dict[str, Any]:
    """The reply as any caller gets it."""
    found: dict[str, Any] = msgspec.to_builtins(reply)
    return found


def _choice(number: int, sample: Sample, asked: Chat | Completion) -> dict[str, Any]:
    said: dict[str, Any] = (
        {"message": {"role": "assistant", "content": content_of(sample), "refusal": None}}
        if isinstance(asked, Chat)
        else {"text": content_of(sample)}
    )
    return {"index": number, **said, "logprobs": logprobs_of(sample, asked), "finish_reason": sample.finish_reason}


def logprobs_of(sample: Sample, asked: Chat | Completion) -> dict[str, Any] | None:
    """The log-probabilities, with as many likely tokens beside each as are wanted; None where none are."""
    if asked.told is None or sample.logprobs is None:
        return None
    if isinstance(asked, Chat):
        return {"content": [_chat_token(one, asked.told) for one in sample.logprobs], "refusal": None}
    offsets, at = [], 0
    for one in sample.logprobs:
        offsets.append(at)
        at += len(one.text)
    return {
        "tokens": [one.text for one in sample.logprobs],
        "token_logprobs": [one.logprob for one in sample.logprobs],
        "top_logprobs": [{top.text: top.logprob for top in one.top[: asked.told]} for one in sample.logprobs],
        "text_offset": offsets,
    }


def _chat_token(one: TokenLogprob, told: int) -> dict[str, Any]:
    return {**_chat_logprob(one), "top_logprobs": [_chat_logprob(top) for top in one.top[:told]]}


def _chat_logprob(one: TokenLogprob | Alternative) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": [*one.text.encode()]}
