"""How text is generated for one request."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Generation parameters; the names are OpenAI's, with `samples` for `n`."""

    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 64
    """Tokens of each sample, at most; less than the model's `max_context_tokens`."""
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """0, like anything below 1e-20, takes the likeliest token; a higher value draws."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Tokens are drawn among the likeliest ones that have this probability together."""
    samples: Annotated[int, Meta(ge=1, le=16)] = 1
    """Answers to one event, each drawn independently."""
    stop: Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=8)] = []
    """Strings that end the text; they are not part of it."""
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    """Sample i draws from `seed + i`; without a seed, from a hash of the request's id, so that a repeat draws from the
    same seed. The same logits give the same draw. In bfloat16 and float16 the logits depend a little on the other rows
    of the batch, so that now and then another token is drawn."""
