"""How text is generated for one request."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Generation parameters; the names are OpenAI's, with `samples` for `n`."""

    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 64
    """Of each sample; less than the model's `max_context_tokens`."""
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """0 takes the likeliest token, and so does what is below 1e-20; anything above draws."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Draws among the likeliest tokens that have this probability together."""
    samples: Annotated[int, Meta(ge=1, le=16)] = 1
    """Answers to one event, each drawn for itself."""
    stop: Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=8)] = []
    """Strings that end the text; they are not part of it."""
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    """Sample i draws from `seed + i`; without a seed, from a hash of the request's id, so that a repeat meets the same
    chance. It draws the same where the logits come out the same; in bfloat16 and float16 they depend on what else is in
    the batch by enough to draw another token now and then."""
