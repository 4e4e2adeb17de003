"""A temperature makes probabilities say how often an answer is right, and changes no answer."""

from __future__ import annotations

import numpy as np
import pytest

from guideway.schemas.calibration import tempered
from guideway.training.evaluation.softening import LEAST_ROWS, softening


def drawn(rows: int, temperature: float) -> tuple[list[list[float]], list[int]]:
    """Rows whose right labels come as often as their probabilities say, told at another temperature."""
    chance = np.random.default_rng(0)
    logs = chance.normal(size=(rows, 4)) * 1.5
    true = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    right = [int(chance.choice(4, p=one)) for one in true]
    told = true ** (1 / temperature)
    return (told / told.sum(axis=1, keepdims=True)).tolist(), right


@pytest.mark.parametrize("too_sure", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_again(too_sure: float) -> None:
    shares, right = drawn(4000, too_sure)
    found = softening(shares, right)
    assert found is not None
    assert found.temperature == pytest.approx(1 / too_sure, rel=0.1)
    assert found.after < 0.03
    if too_sure != 1:
        assert found.before > 3 * found.after


def test_probabilities_that_are_told_at_a_temperature_get_one_in_its_place() -> None:
    shares, right = drawn(1000, 1.0)
    at_two = [[*tempered(dict(enumerate(map(float, row))), 2.0).values()] for row in shares]  # type: ignore[arg-type]
    plain, again = softening(shares, right), softening(at_two, right, temperature=2.0)
    assert plain is not None
    assert again is not None
    assert (again.temperature, again.before, again.after) == pytest.approx(
        (plain.temperature, plain.before, plain.after)
    )


def test_few_rows_tell_none() -> None:
    shares, right = drawn(LEAST_ROWS - 1, 1.0)
    assert softening(shares, right) is None


def test_where_all_or_nothing_is_right_it_stays_within_bounds() -> None:
    shares = [[0.9, 0.1, 0.0]] * 60
    for right, bound in (([0] * 60, 0.05), ([2] * 60, 20.0)):
        found = softening(shares, right)
        assert found is not None
        assert found.temperature == pytest.approx(bound, abs=1e-3)


def test_as_served_it_is_the_same() -> None:
    told = {"a": 0.7, "b": 0.2, "c": 0.1, "d": 0.0}
    warm = tempered(told, 2.0)
    roots = {label: p**0.5 for label, p in told.items()}
    assert warm == pytest.approx({label: one / sum(roots.values()) for label, one in roots.items()})
    assert list(warm) == list(told)
    assert tempered(told, 1.0) == told
    assert sum(tempered(told, 0.05).values()) == pytest.approx(1)
