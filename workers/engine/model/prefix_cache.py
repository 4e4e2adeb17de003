"""Beginnings of prompts that many rows share: all before the caller's input, or a whole prompt for its samples.

Their keys and values are computed for the first row that needs them and copied into the slots of the others.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from guideway.workers.engine.scheduling.row import SharedPrefix
from guideway.workers.engine.text.prompt import Prompt
from guideway.workers.messages.to_engine import Artefact

if TYPE_CHECKING:
    from guideway.workers.engine.guidance.resident import RowGuidance
    from guideway.workers.engine.model.kv_cache import States

_LEAST_TOKENS: Final = 16
"""For fewer computed tokens, a copy and a second pass cost about as much as computing them."""


def shared_prefixes_of(
    prompt: Prompt, namespace: str, artefacts: Sequence[Artefact], guidance: RowGuidance, *, samples: int
) -> list[SharedPrefix]:
    """The prefixes of a request's rows that are worth sharing, the shortest first; none has the prompt's last token.

    A prefix's key covers all that its keys and values depend on, and the namespace. Namespaces share no prefixes: the
    time of an answer would tell one that another asks the same.
    """
    guided = msgspec.json.encode([namespace, [(a.digest, a.form, a.scale) for a in artefacts]])
    last = len(prompt.token_ids) - 1
    found = []
    for text_tokens in sorted({min(prompt.fixed_tokens, last), *([last] if samples > 1 else [])}):
        if guidance.virtual_tokens + text_tokens >= _LEAST_TOKENS:
            text = msgspec.json.encode(prompt.token_ids[:text_tokens])
            tokens = guidance.prefix_tokens + guidance.virtual_tokens + text_tokens
            found.append(SharedPrefix(hashlib.sha256(guided + text).digest(), tokens))
    return found


class PrefixCache:
    """Keys and values of prefixes, least recently used out first; owner of what is kept, of which rows get copies."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, States] = OrderedDict()
        self.nbytes = 0
        """Bytes of all cached prefixes."""

    def __contains__(self, key: object) -> bool:
        """Whether the prefix with this key is cached."""
        return key in self._kept

    def longest(self, prefixes: Sequence[SharedPrefix]) -> States | None:
        """The states of the longest of `prefixes` that is cached; None if none is. The shortest comes first."""
        for prefix in reversed(prefixes):
            if prefix.key in self._kept:
                self._kept.move_to_end(prefix.key)
                return self._kept[prefix.key]
        return None

    def keep(self, key: bytes, states: States) -> None:
        """Cache a prefix that is not cached yet, unless it alone is larger than the budget."""
        size = _nbytes(states)
        if size > self._max_bytes:
            return
        self._kept[key] = states
        self.nbytes += size
        while self.nbytes > self._max_bytes:
            self.nbytes -= _nbytes(self._kept.popitem(last=False)[1])

    def drop(self, key: bytes) -> None:
        """Forget a prefix, if it is cached."""
        self.nbytes -= _nbytes(self._kept.pop(key, []))


def _nbytes(states: States) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in states)
