"""Learns from examples which endpoint a text belongs to. Pure, numpy only.

A text is a vector of two halves: its embedding, which says what it is about, and hashed words, word pairs and word
shapes, which say what form it has (a question, a review, an address). Neither does alone: a definition and a question
about the same thing have nearly the same embedding. Kernel ridge regression (Saunders et al. 1998) on these vectors
gives each label a score by its nearest examples, and the scores of all labels add up to 1:

    scores(x) = ȳ + k(x) A,   A = (K + λ D)⁻¹ (Y - ȳ),   k(x, x') = exp(-γ |x - x'|²)

with K = k(X, X) of the examples X [examples, features], Y [examples, labels] of zeros and ones, and D the number of
examples of each one's label, relative to the mean: so a label with many examples is not favoured. λ, γ and the features
were chosen by cross-validation on the tuning data of benchmarks/router.py.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_FORM_FEATURES: Final = 4096
_FORM_CHARS: Final = 2000
"""The form of a text shows in its first characters."""
_RIDGE: Final = 0.05
_WIDTH: Final = 1.0
_TOKEN: Final = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")


class Learnt:
    """What was learnt from the examples of one router."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str], embeddings: Vectors) -> None:
        """labels: of each text, at least two different ones. embeddings: [texts, dimension], rows of length 1."""
        self.labels = sorted(set(labels))
        self._examples = _features(texts, embeddings)  # [examples, features]
        wanted = np.array([[label == one for one in self.labels] for label in labels], np.float64)
        weights = 1 / (wanted @ wanted.sum(0))  # [examples]: those of one label add up to the same
        weights /= weights.mean()
        self._prior = (weights[:, None] * wanted).mean(0)  # [labels]
        kernel = _kernel(self._examples, self._examples) + _RIDGE * np.diag(1 / weights)
        self._slope = np.linalg.solve(kernel, wanted - self._prior)  # [examples, labels]
        self.nbytes = int(self._examples.nbytes + self._slope.nbytes)

    def scores(self, text: str, embedding: Vectors) -> dict[str, float]:
        """Label → score. embedding: [1, dimension], by the model of the examples."""
        (found,) = self._prior + _kernel(_features([text], embedding), self._examples) @ self._slope
        return dict(zip(self.labels, map(float, found), strict=True))


def _kernel(some: Vectors, others: Vectors) -> npt.NDArray[np.float64]:
    """[some, others]"""
    # Rows have length 1, so that |x - x'|² = 2 - 2 x·x'.
    return np.exp(-2 * _WIDTH * (1 - (some @ others.T).astype(np.float64)))


def _features(texts: Sequence[str], embeddings: Vectors) -> Vectors:
    both = np.hstack([embeddings, np.stack([_form(text) for text in texts])])
    return (both * np.float32(0.5**0.5)).astype(np.float32)


def _form(text: str) -> Vectors:
    """The form of a text, of length 1: words, pairs and shapes of them, hashed with signs (Weinberger et al. 2009)."""
    tokens = ["^", *_TOKEN.findall(text[:_FORM_CHARS]), "$"]
    plain = ["9" if token.isdigit() else token.lower() for token in tokens]
    shapes = [re.sub("[a-z]+", "a", re.sub("[A-Z]", "A", re.sub(r"\d+", "9", token))) for token in tokens]
    grams = [token.lower() for token in tokens]
    grams += [f"shape {shape}" for shape in shapes]
    grams += [f"{one} {other}" for one, other in itertools.pairwise(plain)]
    grams += [f"first {plain[1]}", f"last {plain[-2]}", f"first shape {shapes[1]}", f"last shape {shapes[-2]}"]
    grams += [f"length {min(8, int(math.log2(len(tokens))))}"] * 2
    found = np.zeros(_FORM_FEATURES, np.float32)
    for gram in grams:
        code = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
        found[code % _FORM_FEATURES] += 1 if code >> 16 & 1 else -1
    found = np.sign(found) * np.log1p(np.abs(found))
    length = float(np.linalg.norm(found))
    return (found / length).astype(np.float32) if length else found
