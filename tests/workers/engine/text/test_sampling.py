"""Drawing: the right distribution, the same for a row whoever else is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import torch

from guideway.schemas.generation import Generation
from guideway.workers.engine.kernels import native
from guideway.workers.engine.text.sampling import BatchedSampler, Noise, Sampler, likeliest


@pytest.fixture(autouse=True, params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that holds holds with the kernel in C and without it."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernels", lambda: None)
    else:
        request.getfixturevalue("kernels")
    return str(request.param)


def sampler(sample: int = 0, request_id: str = "r", **generation: Any) -> Sampler:
    return Sampler.of(Generation(**generation), request_id=request_id, sample=sample)


def noise(seeds: Sequence[int], places: Sequence[int], vocabulary: int) -> torch.Tensor:
    return Noise(seeds, vocabulary, torch.device("cpu")).at(places)


def draws(n: int, logits: torch.Tensor, **generation: Any) -> list[int]:
    one = BatchedSampler([sampler(**generation)] * n)
    return [token for token in one.choose(logits.expand(n, -1), range(n)).tolist() if token >= 0]


def off(counts: torch.Tensor, p: torch.Tensor) -> float:
    """How far counts are from n · p by Pearson's chi-square test, in standard deviations of a normal distribution.

    Tokens of less than five expected draws are counted together (Wilson and Hilferty 1931 for the distribution).
    """
    expected = p.double() * counts.sum()
    few = expected < 5
    seen = torch.cat([counts[~few].double(), counts[few].sum()[None].double()])
    wanted = torch.cat([expected[~few], expected[few].sum()[None]])
    some = wanted > 1e-9
    assert seen[~some].sum() == 0, "drawn though it has no probability"
    if int(some.sum()) < 2:
        return 0.0
    chi, k = float(((seen - wanted)[some] ** 2 / wanted[some]).sum()), int(some.sum()) - 1
    return float(((chi / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)))


def test_temperature_0_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert BatchedSampler([sampler(), sampler()]).choose(logits, [0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize("vocabulary", [5, 330])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (2.0, 1.0), (1.0, 0.9), (3.0, 0.97)])
@pytest.mark.parametrize("by", ["place", "seed"])
def test_frequencies_are_those_of_the_softmax_and_the_nucleus(
    by: str, temperature: float, top_p: float, vocabulary: int
) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    logits[::7] = -math.inf
    p = (logits / temperature).softmax(dim=0)
    order = p.argsort(descending=True)
    kept = order[: 1 + int((p[order].cumsum(0) < top_p).sum())]
    exact = torch.zeros(vocabulary).index_copy(0, kept, p[kept] / p[kept].sum())
    n = 4000
    seeds = [5] * n if by == "place" else range(n)
    batched = BatchedSampler([sampler(temperature=temperature, top_p=top_p, seed=seed) for seed in seeds])
    drawn = batched.choose(logits.expand(n, -1).contiguous(), range(n) if by == "place" else [5] * n)
    assert off(torch.bincount(drawn, minlength=vocabulary), exact) < 4


def test_what_two_tokens_of_one_text_draw_does_not_hang_together() -> None:
    n, p = 20_000, torch.tensor([0.1, 0.2, 0.3, 0.4])
    first = torch.tensor(draws(n, p.log()[None], temperature=1.0, seed=3))
    both = torch.bincount(4 * first[:-1] + first[1:], minlength=16)
    assert off(both, torch.outer(p, p).flatten()) < 4


def test_the_generator_gives_the_words_that_its_authors_published() -> None:
    """Of `kat_vectors` in Random123: those whose counter ends in two zeros."""
    words = [int(word[0, 0]) for word in Noise([0], 1, torch.device("cpu")).words([0])]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_the_kernel_and_torch_draw_the_same() -> None:
    torch.manual_seed(0)
    logits = torch.randn(64, 49_152) * 3
    logits[::3] = (logits[::3]).to(torch.bfloat16).float()  # many are equal
    samplers = [
        sampler(i, temperature=[0.0, 0.3, 1.0, 2.0, 9.0][i % 5], top_p=[1.0, 0.9, 0.2, 0.999][i % 4]) for i in range(64)
    ]
    places = [i * 40 for i in range(64)]
    found = BatchedSampler(samplers).choose(logits, places)
    drawing = BatchedSampler(samplers)
    drawing._native = None
    assert found.tolist() == drawing.choose(logits, places).tolist()


def by_torch(samplers: list[Sampler], logits: torch.Tensor, places: list[int]) -> list[int]:
    """What operations of torch draw, as on a device."""
    drawing = BatchedSampler(samplers)
    drawing._native = None
    return [int(token) for token in drawing.choose(logits, places)]


@pytest.mark.parametrize("beside", ["nothing", "forbidden", "unlikely"])
def test_both_draw_the_same_where_equal_tokens_just_reach_top_p(beside: str) -> None:
    """A sum of tenths is 0.7 or a little less, by the order in which it is made."""
    samplers, rows = [], []
    vocabulary = 40 if beside == "nothing" else 130
    for n in range(1, 13 if beside == "nothing" else 8):
        for reached in range(1, n + 1):
            logits = torch.full((vocabulary,), -math.inf if beside != "unlikely" else -40.0)
            logits[torch.arange(n) * 3] = 1.7
            for seed in range(12):
                for top_p in (reached / n, math.nextafter(reached / n, 0), math.nextafter(reached / n, 1)):
                    samplers.append(sampler(temperature=0.7, top_p=min(top_p, 1.0), seed=seed))
                    rows.append(logits)
    places = [*range(len(rows))]
    logits = torch.stack(rows)
    assert BatchedSampler(samplers).choose(logits, places).tolist() == by_torch(samplers, logits, places)


@pytest.mark.parametrize("vocabulary", [7, 300, 3000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_both_draw_the_same_at_the_edge_of_any_token(vocabulary: int, temperature: float) -> None:
    """Each top_p is the share of the likeliest tokens themselves, or its neighbour among floats."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    logits[::5] = logits[::5].to(torch.bfloat16).float()
    scaled = (logits - logits.max()) * torch.tensor(1 / temperature)
    shares = scaled.double().exp().mul(2.0 ** (52 - vocabulary.bit_length())).round().sort(descending=True)[0]
    edges = (shares.cumsum(0) / shares.sum())[: min(vocabulary - 1, 60)].tolist()
    samplers = [
        sampler(temperature=temperature, top_p=top_p, seed=seed)
        for edge in edges
        for top_p in (edge, math.nextafter(edge, 0), math.nextafter(edge, 1))
        for seed in range(6)
    ]
    rows, places = logits.expand(len(samplers), -1).contiguous(), [3 * i for i in range(len(samplers))]
    assert BatchedSampler(samplers).choose(rows, places).tolist() == by_torch(samplers, rows, places)


def test_both_draw_the_same_where_two_scores_are_equal_in_float32() -> None:
    vocabulary, rows = 200, 400
    both = noise(range(rows), [0] * rows, vocabulary)[:, [20, 150]]
    logits = torch.full((rows, vocabulary), -60.0)
    # What one token lacks in noise it has in its logit, to the last bits of float32.
    logits[:, 20] = (both[:, 1] - both[:, 0]).float()
    logits[:, 150] = 0.0
    logits += 60.0 * torch.rand(rows, 1, generator=torch.Generator().manual_seed(0))
    samplers = [sampler(temperature=1.0, seed=seed) for seed in range(rows)]
    found = BatchedSampler(samplers).choose(logits, [0] * rows).tolist()
    assert set(found) == {20, 150}
    assert found == by_torch(samplers, logits, [0] * rows)


def test_many_tokens_with_the_same_noise_and_logit_are_told_apart_alike() -> None:
    logits = torch.zeros(64, 60_000)
    logits[:, 100:] = -0.25
    samplers = [sampler(temperature=10.0, seed=seed, top_p=1.0 if seed % 2 else 0.999) for seed in range(64)]
    assert BatchedSampler(samplers).choose(logits, [7] * 64).tolist() == by_torch(samplers, logits, [7] * 64)


def test_noise_hangs_on_seed_place_and_token_alone() -> None:
    together = noise([1, 2**64 - 1], [0, 7], 1000)
    assert torch.equal(together[1:, :130], noise([2**64 - 1], [7], 130))
    assert together.isfinite().all()
    assert not torch.equal(noise([1], [0], 64), noise([1], [1], 64))


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
    for place in range(20):
        mixed = together.choose(torch.cat([logits[:1], logits]), [0, *[place] * 5])[1:].tolist()
        assert mixed == [int(one.choose(logits[i : i + 1], [place])[0]) for i, one in enumerate(alone)]


def test_a_draw_does_not_hang_on_the_draws_before() -> None:
    logits = torch.zeros(1, 1000)
    one = BatchedSampler([sampler(temperature=1.0, seed=3)])
    in_order = [int(one.choose(logits, [place])[0]) for place in range(10)]
    assert [int(one.choose(logits, [place])[0]) for place in reversed(range(10))] == in_order[::-1]


def test_noise_in_the_last_bits_of_the_logits_changes_no_draw() -> None:
    """Which rows share a batch decides how sums are rounded; many tokens are about equally likely."""
    torch.manual_seed(0)
    logits = torch.randn(1, 40_000) / 10
    nudged = logits + torch.randn_like(logits) * 1e-5
    assert draws(20, logits, temperature=1.0, seed=3) == draws(20, nudged, temperature=1.0, seed=3)


def test_seeds_and_ids_decide() -> None:
    logits = torch.zeros(1, 10_000)

    def series(one: Sampler) -> list[int]:
        return BatchedSampler([one] * 4).choose(logits.expand(4, -1), range(4)).tolist()

    assert series(sampler(temperature=1, seed=4)) == series(sampler(temperature=1, seed=4, request_id="other"))
    assert series(sampler(1, temperature=1, seed=4)) == series(sampler(temperature=1, seed=5))
    assert series(sampler(temperature=1)) == series(sampler(temperature=1))
    assert series(sampler(temperature=1)) != series(sampler(temperature=1, request_id="other"))
    assert series(sampler(temperature=1)) != series(sampler(1, temperature=1))


def test_a_row_without_a_finite_maximum_gets_no_token() -> None:
    logits = torch.tensor([[1.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0], [1.0, -math.inf]])
    greedy = BatchedSampler([sampler()] * 4)
    assert greedy.choose(logits, [0] * 4).tolist() == [-1, -1, -1, 0]
    drawing = BatchedSampler([sampler(temperature=1)] * 4)
    assert drawing.choose(logits, [0] * 4).tolist() == [-1, -1, -1, 0]


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
