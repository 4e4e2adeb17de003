"""Chooses which of the found passages go into the text. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from guideway.schemas.retrieval import Retrieval
from guideway.workers.retrieval.index import Hit

CANDIDATES: Final = 4
"""Candidates for each wanted passage, so that budget and diversity have a choice."""


class ScoredPassage(NamedTuple):
    """A passage of one of the request's sets."""

    set: int
    """Place of its set in the request."""
    hit: Hit
    weighted: float
    """Its score times its set's weight."""


def choose(wanted: Retrieval, found: Sequence[Sequence[Hit]], tokens_of: Callable[[str], int]) -> list[ScoredPassage]:
    """The passages for the text, best first. found: the hits of each set of `wanted.sets`, in that order.

    tokens_of: tokens that a passage takes from the budget `wanted.max_tokens`.

    Maximal marginal relevance (Carbonell and Goldstein 1998): the next passage has the largest
    (1 - d) · weighted score - d · largest cosine to a chosen passage, with d = `wanted.diversity`.
    The same text is taken once, whatever sets it is in.
    """
    left = [
        ScoredPassage(number, hit, hit.score * ref.weight)
        for number, (ref, hits) in enumerate(zip(wanted.sets, found, strict=True))
        for hit in hits
        if hit.score >= wanted.min_score and ref.weight > 0
    ]
    chosen: list[ScoredPassage] = []
    budget = wanted.max_tokens
    while left and len(chosen) < wanted.passages:
        best = max(left, key=lambda one: _worth(one, chosen, wanted.diversity))
        left.remove(best)
        cost = tokens_of(best.hit.text)
        if cost <= budget and all(best.hit.text != one.hit.text for one in chosen):
            chosen.append(best)
            budget -= cost
    return chosen


def why_none(wanted: Retrieval, found: Sequence[Sequence[Hit]]) -> str:
    """Why `choose` chose no passage from `found`, and what to change."""
    scores = [hit.score for ref, hits in zip(wanted.sets, found, strict=True) for hit in hits if ref.weight > 0]
    if not scores and wanted.filter:
        names = ", ".join(f"metadata {one.key!r}" for one in wanted.filter)
        return (
            f"passes the filter ({names}): give the filter's fields values that passages have, or leave them out; "
            "`guideway sets show` lists the set's metadata"
        )
    if not scores:
        return "was found, for the sets are empty or have weight 0: the endpoint's owner may change retrieval.sets"
    if max(scores) < wanted.min_score:
        passing = " that passes the filter" if wanted.filter else ""
        return (
            f"is to the point: the best one{passing} has score {max(scores):.2f}, retrieval.min_score is "
            f"{wanted.min_score:.2f}; ask otherwise, or the endpoint's owner may lower it"
        )
    return (
        f"fits into retrieval.max_tokens ({wanted.max_tokens}), though some are to the point: the endpoint's owner may "
        "raise it, or create the sets with shorter passages"
    )


def _worth(one: ScoredPassage, chosen: Sequence[ScoredPassage], diversity: float) -> float:
    if not chosen or not diversity:
        return one.weighted
    nearest = max(_cosine(one.hit, other.hit) for other in chosen)
    return (1 - diversity) * one.weighted - diversity * nearest


def _cosine(one: Hit, other: Hit) -> float:
    # One model embedded all sets of a worker, so their vectors can be compared.
    assert one.vector is not None, "vectors are asked for where diversity counts"
    assert other.vector is not None, "vectors are asked for where diversity counts"
    return float(one.vector @ other.vector)
