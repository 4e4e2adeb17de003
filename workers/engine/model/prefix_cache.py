"""Beginnings of prompts that many rows share: all before the caller's input, or a whole prompt for its samples.

Their keys and values are computed for the first row that needs them and copied into the slots of the others.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from guideway.workers.engine.model.kv_cache import States
from guideway.workers.engine.scheduling.row import SharedPrefix
from guideway.workers.engine.text.prompt import Prompt
from guideway.workers.messages.to_engine import Artefact

if TYPE_CHECKING:
    from guideway.workers.engine.guidance.resident import RowGuidance

_LEAST_TOKENS: Final = 16
"""For fewer computed tokens, a copy and a second pass cost about as much as computing them."""

_USED_S: Final = 600.0
"""What was used within so long is not given up for one that holds more."""


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


class _Kept(msgspec.Struct):
    states: States
    namespace: str
    used_at: float


class PrefixCache:
    """Keys and values of prefixes; owner of what is kept, of which rows get copies.

    Where room lacks, what nobody has used of late goes, least recently used first; then what the namespace has that
    holds most. So nobody pushes out what others use, as long as they have less than their share.
    """

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        """Least recently used first."""
        self._held: Counter[str] = Counter()
        """Bytes by namespace."""

    @property
    def nbytes(self) -> int:
        """Bytes of all cached prefixes."""
        return self._held.total()

    def __contains__(self, key: object) -> bool:
        """Whether the prefix with this key is cached."""
        return key in self._kept

    def longest(self, prefixes: Sequence[SharedPrefix]) -> States | None:
        """The states of the longest of `prefixes` that is cached; None if none is. The shortest comes first."""
        for prefix in reversed(prefixes):
            if (found := self._kept.get(prefix.key)) is not None:
                self._kept.move_to_end(prefix.key)
                found.used_at = self._clock()
                return found.states
        return None

    def keep(self, key: bytes, states: States, namespace: str) -> None:
        """Cache a prefix that is not cached yet, unless it alone is larger than the budget."""
        size = _nbytes(states)
        if size > self._max_bytes:
            return
        while self.nbytes + size > self._max_bytes:
            self.drop(self._next_out(namespace, size))
        self._kept[key] = _Kept(states, namespace, self._clock())
        self._held[namespace] += size

    def drop(self, key: bytes) -> None:
        """Forget a prefix, if it is cached."""
        if (one := self._kept.pop(key, None)) is not None:
            self._held[one.namespace] -= _nbytes(one.states)
            if not self._held[one.namespace]:
                del self._held[one.namespace]

    def _next_out(self, namespace: str, size: int) -> bytes:
        """The key of what goes first where `namespace` is to have `size` bytes more."""
        oldest, one = next(iter(self._kept.items()))
        if self._clock() - one.used_at >= _USED_S:
            return oldest
        # Of one that holds nothing yet, nothing can go.
        most = max(self._held, key=lambda of: self._held[of] + size * (of == namespace))
        return next(key for key, one in self._kept.items() if one.namespace == most)


def _nbytes(states: States) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in states)
