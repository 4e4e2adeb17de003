"""Drawing: the right distribution, the same for a row whoever else is there."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import torch

from guideway.schemas.generation import Generation
from guideway.workers.engine.text.sampling import BatchedSampler, Sampler, likeliest


def sampler(sample: int = 0, request_id: str = "r", **generation: Any) -> Sampler:
    return Sampler.of(Generation(**generation), request_id=request_id, sample=sample)


def draws(n: int, logits: torch.Tensor, **generation: Any) -> list[int]:
    one = BatchedSampler([sampler(**generation)])
    return [token for _ in range(n) if (token := one.choose(logits)[0]) is not None]


def test_temperature_0_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert BatchedSampler([sampler(), sampler()]).choose(logits) == [1, 0]


def test_frequencies_are_those_of_the_softmax() -> None:
    p = torch.tensor([0.1, 0.6, 0.3])
    counts = torch.bincount(torch.tensor(draws(4000, p.log()[None], temperature=1.0, seed=1)), minlength=3) / 4000
    torch.testing.assert_close(counts, p, atol=0.03, rtol=0)


def test_temperature_flattens() -> None:
    p = torch.tensor([0.2, 0.8])
    flat = p.sqrt() / p.sqrt().sum()
    counts = torch.bincount(torch.tensor(draws(4000, p.log()[None], temperature=2.0, seed=1)), minlength=2) / 4000
    torch.testing.assert_close(counts, flat, atol=0.03, rtol=0)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert set(draws(300, logits, temperature=1.0, top_p=0.7, seed=1)) == {1, 3}
    assert set(draws(300, logits, temperature=1.0, top_p=0.76, seed=1)) == {1, 2, 3}
    assert set(draws(300, logits, temperature=1.0, top_p=0.01, seed=1)) == {1}


@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1e-10])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4, 1e30])
def test_the_colder_the_likelier(temperature: float, size: float) -> None:
    logits = torch.tensor([[-1.0, 0.5, -math.inf, 0.7, 0.0]]) * size
    assert set(draws(50, logits, temperature=temperature, seed=1)) == {3}
    assert set(draws(50, -logits.abs(), temperature=temperature, seed=1)) == {4}


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-46, 1e-12])
def test_the_smallest_nucleus_is_the_likeliest_token(top_p: float) -> None:
    logits = torch.tensor([[-math.inf, 0.5, 0.7, 0.0], [-math.inf, 3.0, 3.0, 3.0]])
    assert set(draws(50, logits[:1], temperature=1.0, top_p=top_p, seed=1)) == {2}
    assert set(draws(50, logits[1:], temperature=1.0, top_p=top_p, seed=1)) == {1}


def test_large_logits_and_a_nucleus_leave_a_distribution() -> None:
    logits = torch.tensor([[3e38, 3e38, -3e38]])
    assert set(draws(50, logits, temperature=0.5, top_p=0.9, seed=1)) == {0, 1}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": value} for value in (math.nan, math.inf, -1e-9, 10.1, "1", True)),
        *({"top_p": value} for value in (math.nan, 0, -0.0, 1.1)),
        *({"seed": value} for value in (-1, 2**53, 2**64, 1.5)),
        *({"samples": value} for value in (0, 17)),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_by_is_refused_in_manifests_and_requests(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Generation)


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]])
    assert set(draws(300, logits, temperature=10.0, seed=1)) == {1, 3}


def test_a_row_draws_the_same_whoever_else_is_there() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 200)
    settings: list[dict[str, Any]] = [{"temperature": 0.5 + i, "top_p": 1.0 - i / 10, "seed": i} for i in range(5)]
    together = BatchedSampler([sampler(), *(sampler(**s) for s in settings)])
    alone = [BatchedSampler([sampler(**s)]) for s in settings]
    for _ in range(20):
        mixed = together.choose(torch.cat([logits[:1], logits]))[1:]
        assert mixed == [one.choose(logits[i : i + 1])[0] for i, one in enumerate(alone)]


def test_noise_in_the_last_bits_of_the_logits_changes_no_draw() -> None:
    """Which rows share a batch decides how sums are rounded; many tokens are about equally likely."""
    torch.manual_seed(0)
    logits = torch.randn(1, 40_000) / 10
    nudged = logits + torch.randn_like(logits) * 1e-5
    one, other = (BatchedSampler([sampler(temperature=1.0, seed=3)]) for _ in range(2))
    assert [one.choose(logits) for _ in range(20)] == [other.choose(nudged) for _ in range(20)]


def test_seeds_and_ids_decide() -> None:
    logits = torch.zeros(1, 10_000)

    def series(one: Sampler) -> list[int | None]:
        batched = BatchedSampler([one])
        return [batched.choose(logits)[0] for _ in range(4)]

    assert series(sampler(temperature=1, seed=4)) == series(sampler(temperature=1, seed=4, request_id="other"))
    assert series(sampler(1, temperature=1, seed=4)) == series(sampler(temperature=1, seed=5))
    assert series(sampler(temperature=1)) == series(sampler(temperature=1))
    assert series(sampler(temperature=1)) != series(sampler(temperature=1, request_id="other"))
    assert series(sampler(temperature=1)) != series(sampler(1, temperature=1))


def test_a_row_without_a_finite_maximum_gets_no_token() -> None:
    logits = torch.tensor([[1.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0], [1.0, -math.inf]])
    greedy = BatchedSampler([sampler()] * 4)
    assert greedy.choose(logits) == [None, None, None, 0]
    drawing = BatchedSampler([sampler(temperature=1)] * 4)
    assert drawing.choose(logits) == [None, None, None, 0]


def test_the_likeliest_is_the_first_of_the_largest() -> None:
    torch.manual_seed(0)
    for vocabulary in (1, 200, 256, 1024, 49_152):
        logits = torch.randint(0, 40, (9, vocabulary)).float()  # many are equal
        logits[3, vocabulary // 2] = math.nan
        logits[4] = -math.inf
        best, tokens = likeliest(logits)
        assert best[3].isnan()
        for row in (0, 1, 2, 4, 5, 6, 7, 8):
            assert best[row] == logits[row].max()
            assert tokens[row] == (logits[row] == logits[row].max()).nonzero()[0]
