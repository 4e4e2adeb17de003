"""How text is generated for one request."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

MaxTokens = Annotated[int, Meta(ge=1, le=32_768)]
Temperature = Annotated[float, Meta(ge=0, le=10)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Samples = Annotated[int, Meta(ge=1, le=16)]
Stop = Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=8)]
Seed = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Generation parameters; the names are OpenAI's, with `samples` for `n`."""

    max_tokens: MaxTokens = 64
    """Tokens of each sample, at most; less than the model's `max_context_tokens`."""
    temperature: Temperature = 0.0
    """0, like anything below 1e-20, takes the likeliest token; a higher value draws."""
    top_p: TopP = 1.0
    """Tokens are drawn among the likeliest ones that have this probability together."""
    samples: Samples = 1
    """Answers to one event, each drawn independently."""
    stop: Stop = []
    """Strings that end the text; they are not part of it."""
    seed: Seed | None = None
    """Sample i draws from `seed + i`; without a seed, from a hash of the request's id, so that a repeat draws from the
    same seed. The same logits give the same draw. In bfloat16 and float16 the logits depend a little on the other rows
    of the batch, so that now and then another token is drawn."""


class AskedGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The generation parameters that one event sets; those that it leaves out are the endpoint's."""

    max_tokens: MaxTokens | UnsetType = UNSET
    temperature: Temperature | UnsetType = UNSET
    top_p: TopP | UnsetType = UNSET
    samples: Samples | UnsetType = UNSET
    stop: Stop | UnsetType = UNSET
    seed: Seed | UnsetType = UNSET

    def over(self, own: Generation) -> Generation:
        """The endpoint's `own` parameters with these in their place."""
        asked = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return msgspec.structs.replace(own, **asked) if asked else own


class RequestGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Which generation parameters a request may set, and how far. What it does not set is the endpoint's own."""

    max_tokens: MaxTokens | None = None
    """The most `max_tokens` that a request may ask for; null: it may ask for none."""
    temperature: Temperature | None = None
    """The highest temperature that a request may ask for; null: it may ask for none."""
    top_p: bool = False
    """Whether a request may set `top_p`."""
    samples: Samples | None = None
    """The most samples that a request may ask for; null: it may ask for none."""
    stop: bool = False
    """Whether a request may bring stop strings, in place of the endpoint's."""
    seed: bool = False
    """Whether a request may bring a seed."""

    def beyond(self, given: Generation, own: Generation) -> dict[str, float | None]:
        """Parameters of `given` that are neither the endpoint's `own` nor allowed → the most that is; None: none."""
        if given == own:
            return {}
        found: dict[str, float | None] = {}
        for name in given.__struct_fields__:
            value, allowed = getattr(given, name), getattr(self, name)
            if value == getattr(own, name) or allowed is True:
                continue
            if allowed is None or allowed is False:
                found[name] = None
            elif value > allowed:
                found[name] = allowed
        return found
