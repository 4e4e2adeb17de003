"""Passages for the rows of training and evaluation, found and chosen by an endpoint's retrieval rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.retrieval import RetrievalRule, SetRef
from guideway.training.data.examples import Example
from guideway.training.sets.evaluate import Searched
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.from_retrieval import FoundPassage
from guideway.workers.retrieval.passages import with_context
from guideway.workers.retrieval.selection import CANDIDATES, choose, why_none


class RetrievalContext:
    """Finds passages by an endpoint's rule, with the whole text of a row as the query."""

    def __init__(self, rule: RetrievalRule, sets: Sequence[tuple[SetRef, Searched]]) -> None:
        """sets: the rule's sets in its order, each with its searcher."""
        self._rule = rule
        self._sets = sets

    @property
    def refs(self) -> list[SetRef]:
        """The versions of the sets that are searched."""
        return [ref for ref, _ in self._sets]

    def for_rows(self, rows: Sequence[Example], layout: PromptLayout) -> list[Example]:
        """The rows, each with the context that a worker would put into such an event's text.

        layout: of the model that counts the rule's `max_tokens`. Raises: Refusal `invalid_data` for a row without a
        passage, if the rule refuses such events.
        """
        rule = self._rule
        queries = [row.text for row in rows]
        limit = rule.passages * CANDIDATES
        found = [searched.search(queries, limit, vectors=rule.diversity > 0) for _, searched in self._sets]
        told = []
        for place, row in enumerate(rows):
            wanted = rule.of(self.refs, row.text)
            chosen = choose(wanted, [of_set[place] for of_set in found], layout.context_tokens)
            passages = [
                FoundPassage(set=one.set, id=one.hit.id, text=one.hit.text, score=one.hit.score) for one in chosen
            ]
            try:
                told.append(msgspec.structs.replace(row, context=with_context([], wanted, passages)))
            except Refusal:
                raise Refusal(
                    FailureCode.INVALID_DATA,
                    f"row {row.number}: no passage of {', '.join(map(str, self.refs))} "
                    f"{why_none(wanted, [of_set[place] for of_set in found])}. The task's rule refuses such events: "
                    "change that, remove the row, or set retrieval.if_none",
                ) from None
        return told


def retrieval_context(
    rule: RetrievalRule,
    began_with: Sequence[SetRef],
    catalogue: Catalogue,
    namespace: str,
    open_set: Callable[[RetrievalSet, SetRef], Searched],
) -> RetrievalContext:
    """The context of a rule. began_with: the set versions of a resumed run; empty: the catalogue's present versions.

    Raises: Refusal `guidance_unknown` for sets that do not exist, `guidance_forbidden` for sets that `namespace` may
    not use, and what `open_set` raises.
    """
    if began_with:
        known = [(ref, catalogue.retrieval_set(str(ref), for_namespace=namespace)[1]) for ref in began_with]
    else:
        known = [catalogue.retrieval_set(name, for_namespace=namespace) for name in rule.sets]
    return RetrievalContext(rule, [(ref, open_set(manifest, ref)) for ref, manifest in known])
