"""Passages for rows that guidance is trained or scored on: found, chosen and put in by an endpoint's rule."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.schemas.request import Part
from guideway.schemas.retrieval import RetrievalRule, SetRef
from guideway.training.sets.evaluate import Searched
from guideway.workers.engine.prompt import PromptLayout
from guideway.workers.retrieval.choice import CANDIDATES, choose
from guideway.workers.retrieval.messages import FoundPassage
from guideway.workers.retrieval.passages import with_context


class RetrievalContext:
    """The context of an endpoint's rule. `sets` are those of the rule, in its order, each with what searches it.

    The rule's filter is not applied: a row is a query and its parts, without the fields to filter by.
    """

    def __init__(self, rule: RetrievalRule, sets: Sequence[tuple[SetRef, Searched]], layout: PromptLayout) -> None:
        self._rule = rule
        self._sets = sets
        self._layout = layout

    def put_in(self, rows: Sequence[tuple[str, Sequence[Part]]]) -> list[list[Part]]:
        """For each (query, parts) the parts with passages among them, for `PromptLayout.encode`.

        Raises Refusal(no_passage) where a row has none and the rule refuses then.
        """
        rule = self._rule
        queries = [query for query, _ in rows]
        limit = rule.passages * CANDIDATES
        found = [searched.search(queries, limit, vectors=rule.diversity > 0) for _, searched in self._sets]
        told = []
        for number, (query, parts) in enumerate(rows):
            wanted = rule.of([ref for ref, _ in self._sets], query)
            chosen = choose(wanted, [of_set[number] for of_set in found], self._layout.context_tokens)
            passages = [
                FoundPassage(set=one.set, id=one.hit.id, text=one.hit.text, score=one.hit.score) for one in chosen
            ]
            told.append(with_context(parts, wanted, passages))
        return told
