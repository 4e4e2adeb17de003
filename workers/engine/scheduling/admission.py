"""From requests to rows that wait: texts are prepared, guidance is read, lengths are checked."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from guideway.schemas.calibration import labels_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import OutputRule, weighs
from guideway.workers.engine.likelihood.label_walk import LabelWalk
from guideway.workers.engine.model.prefix_cache import shared_prefixes_of
from guideway.workers.engine.scheduling.prefetch import GuidancePrefetch
from guideway.workers.engine.scheduling.preparation import Preparation, check_length
from guideway.workers.engine.scheduling.row import Row, is_late
from guideway.workers.engine.text.grammar import Grammar
from guideway.workers.engine.text.sampling import Sampler
from guideway.workers.messages.to_engine import Admit


class Admission:
    """Owner of the requests that arrive.

    A request has arrived when its text is prepared and its guidance was read for the first time: both are then checked
    before one of its rows waits for a seat.
    """

    def __init__(
        self, preparation: Preparation, ahead: GuidancePrefetch, *, max_tokens: int, max_prefix_tokens: int
    ) -> None:
        """max_tokens: of the longest sequence. max_prefix_tokens: of the longest prefix that can be cached."""
        self._preparation = preparation
        self._ahead = ahead
        self._max_tokens = max_tokens
        self._max_prefix_tokens = max_prefix_tokens
        self._arriving: dict[str, Admit] = {}
        """By the id of the request's attempt, in the order in which they came."""

    @property
    def ids(self) -> Collection[str]:
        """The ids of all requests that arrive."""
        return self._arriving.keys()

    @property
    def missing(self) -> set[Future[Any]]:
        """The texts that are being prepared."""
        return {*self._preparation.missing}

    def begin(self, admit: Admit) -> None:
        """Have a request's text prepared."""
        self._arriving[admit.id] = admit
        self._preparation.begin(admit)

    def arrived(self) -> list[str]:
        """The ids of those that can be taken, in the order in which they came.

        The guidance of those that are prepared is read: of others it would be held as long as their namespace has texts
        or grammars that take long, and no budget could let go of it.
        """
        prepared = [admit for id_, admit in self._arriving.items() if self._preparation.is_ready(id_)]
        for admit in prepared:
            self._ahead.begin(admit.id, admit.artefacts)
        return [admit.id for admit in prepared if self._ahead.is_ready(admit.id)]

    def late(self, now: float) -> list[str]:
        """The ids of those whose deadline passed before `now` (Unix time in seconds)."""
        return [id_ for id_, admit in self._arriving.items() if is_late(admit.request, now)]

    def take(self, id_: str, *, in_use: Collection[str]) -> list[Row]:
        """The rows of a request that has arrived, one for each sample. in_use: digests of guidance that is to stay.

        Raises: Refusal if its text, output rule, guidance or length is wrong; even then the request is taken out.
        """
        admit = self._arriving.pop(id_)
        request = admit.request
        prompt, grammar = self._preparation.take(id_)
        # Read to be checked and to be near; held only once a row is seated, so that waiting rows bound no memory.
        guidance = self._ahead.load(id_, in_use=in_use)
        check_length(guidance, len(prompt.token_ids), request.generation.max_tokens, self._max_tokens)
        samples = request.generation.samples
        # What evaluation and calibration ask for is told of a text that is written once, from its beginning to its end.
        walks = weighs(request.output) and not (admit.logprobs or admit.partings)
        ids = _label_ids(request.output, grammar, request.generation.max_tokens) if walks else None
        prefixes = shared_prefixes_of(prompt, request.calling_namespace, admit.artefacts, guidance, samples=samples)
        return [
            Row(
                admit=admit,
                sample=sample,
                prompt_ids=prompt.token_ids,
                virtual_tokens=guidance.virtual_tokens,
                prefix_tokens=guidance.prefix_tokens,
                form=grammar,
                sampler=Sampler.of(request.generation, request_id=request.id, sample=sample),
                shared_prefixes=[prefix for prefix in prefixes if prefix.tokens <= self._max_prefix_tokens],
                walk=LabelWalk(ids) if ids is not None else None,
            )
            for sample in range(samples)
        ]

    def drop(self, id_: str) -> None:
        """Forget a request that has ended; one that does not arrive is ignored."""
        self._arriving.pop(id_, None)
        self._preparation.drop(id_)
        self._ahead.drop(id_)


def _label_ids(rule: OutputRule, grammar: Grammar | None, max_tokens: int) -> dict[str, list[int]]:
    """The tokens of each label. Raises: Refusal `output_incomplete` if one has more than `max_tokens`."""
    assert grammar is not None, "labels have a grammar"
    ids = {label: grammar.ids(label) or [] for label in labels_of(rule)}
    longest = max(ids, key=lambda label: len(ids[label]))
    if len(ids[longest]) > max_tokens:
        raise Refusal(
            FailureCode.OUTPUT_INCOMPLETE,
            f"probabilities are told of whole labels; {longest!r} has {len(ids[longest])} tokens, and "
            f"generation.max_tokens is {max_tokens}: raise it",
        )
    return ids
