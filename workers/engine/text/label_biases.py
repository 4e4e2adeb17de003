"""A bias for each label, spread over the tokens that labels are written in. Pure.

Labels stand in a trie of tokens, and a row takes one edge of it a step. With b(y) the bias of label y and n the labels
below a node N, the node's weight is

    W(N) = n / Σ exp(-b(y)), over the labels y below N,

and the edge from N to its child M has log W(M) - log W(N) added to its logit. So

- what is added on the way to a label is b(y) - log W(root): the label's bias and what all labels have alike, however
  many of them begin with the same tokens. A bias for the first token alone would fall on all that share it;
- where no two labels begin with the same token, the label taken is the one whose log-likelihood and bias together are
  the largest: each label has an edge of its own from the root;
- where some do, a branch is weighed as a whole, as it is without biases. exp(-b(y)) is, but for a factor, how likely
  the model takes y to be where there is nothing to judge (that is what biases are made from), so W(M) / W(N) is what
  brings the branch to its share of the labels. Which of its labels it is, is then decided in the same way.

Every label ends by an edge as well, the end token or what comes next, where another one goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping


def log_weight(biases: Collection[float]) -> float:
    """log W of a node, from the biases of the labels below it; at least one."""
    largest = max(-bias for bias in biases)
    return math.log(len(biases)) - largest - math.log(sum(math.exp(-bias - largest) for bias in biases))


def edges(
    biases: Mapping[str, float], branches: Mapping[int, Iterable[str]], ended: str | None
) -> dict[int | None, float]:
    """The biases at a node, by the token of each branch; under None, of the label that ends there, if one does.

    branches: the labels below the node by their next token. A node with one way on adds nothing.
    """
    below: dict[int | None, list[float]] = {
        token: [biases[label] for label in labels] for token, labels in branches.items()
    }
    if ended is not None:
        below[None] = [biases[ended]]
    if len(below) < 2:
        return dict.fromkeys(below, 0.0)
    whole = log_weight([bias for some in below.values() for bias in some])
    return {token: log_weight(some) - whole for token, some in below.items()}
