"""What goes wrong with one row, wherever in a step, refuses that row: the others generate what they generate alone."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run
from tests.workers.engine.test_soak import expect_nothing_left

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance import prefix_tuning
from guideway.workers.engine.guidance.batched_adapters import BatchedAdapters
from guideway.workers.engine.guidance.batched_inserted_layers import BatchedInsertedLayers
from guideway.workers.engine.kernels import large_pages, native
from guideway.workers.engine.kernels.layers.native_inserted import NativePlace
from guideway.workers.engine.kernels.slab import Slab
from guideway.workers.engine.model import runner
from guideway.workers.engine.model.kv_cache import KvCache
from guideway.workers.engine.model.prefix_cache import PrefixCache
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.compiled import Compiled
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Admit


class Panic(BaseException):
    """As a library in Rust raises it: no Exception."""


def once_in(after: int, error: BaseException) -> Callable[[], None]:
    """Raises at the call number `after` + 1, and only there."""
    calls = iter(range(10**9))

    def call() -> None:
        if next(calls) == after:
            raise error

    return call


@pytest.fixture
def admits(
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    make_prefix: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> list[Admit]:
    """Several prompts and some guidance of each kind; all run for about as long."""
    shelf = [make_lora("a/lora@1"), make_prefix("a/prefix@1"), make_inserted_layer("a/inserted@1")]
    form = Regex("[a-z]{20,30}")
    return [
        make_admit("plain", max_tokens=30, output=form, id="plain"),
        *(make_admit(f"{a.form}", max_tokens=30, output=form, artefacts=[a], id=a.form) for a in shelf),
        make_admit("all", max_tokens=30, output=form, artefacts=shelf, samples=2, instruction="Be brief." * 3),
        make_admit("x" * 90, max_tokens=20, instruction="Be brief." * 3),
    ]


def expect_one_refused(engine: Engine, alone: dict[str, Any], admits: list[Admit], code: FailureCode) -> None:
    """One sample; where it is its request's only one, that is refused."""
    found = ends(run(engine, admits))
    expected = {id_: outcomes(end) for id_, end in alone.items()}
    differ = [
        outcome
        for id_, end in found.items()
        for outcome, was in zip(outcomes(end), expected[id_], strict=True)
        if outcome != was
    ]
    assert differ == [code]
    expect_nothing_left(engine)
    assert ends(run(engine, admits)) == alone, "afterwards all is well"


def outcomes(end: Finished | Refused) -> list[Any]:
    """Of each sample."""
    if isinstance(end, Refused):
        return [end.code]
    return [one.failure.code if one.failure and not one.text else one for one in end.samples]


SEATING: list[tuple[Any, str]] = [
    (BatchedAdapters, "seat"),
    (BatchedInsertedLayers, "seat"),
    (KvCache, "put"),
    (runner, "prefix_states"),
    (PrefixCache, "longest"),
    (PrefixCache, "keep"),
    (KvCache, "copy"),
]


@pytest.mark.parametrize("error", [RuntimeError("shapes"), Panic("rust")], ids=["error", "panic"])
@pytest.mark.parametrize(("owner", "name"), SEATING, ids=[f"{o.__name__.split('.')[-1]}.{n}" for o, n in SEATING])
def test_a_row_that_cannot_be_seated(
    make_engine: MakeEngine,
    admits: list[Admit],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: BaseException,
) -> None:
    alone = ends(run(make_engine(), admits))
    engine = make_engine(max_step_tokens=60)
    whole, fail = getattr(owner, name), once_in(1, error)

    def failing(*args: Any, **kwargs: Any) -> Any:
        fail()
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    expect_one_refused(engine, alone, admits, FailureCode.INTERNAL_ERROR)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_row_that_is_seated_by_half(
    make_engine: MakeEngine, admits: list[Admit], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    # As on a machine without a compiler.
    monkeypatch.setattr(native, "kernels_for", lambda model: None)
    alone = ends(run(make_engine(), admits))
    engine = make_engine()
    whole, fail = Slab.put, once_in(after, RuntimeError("half"))

    def put(*args: Any) -> None:
        fail()
        whole(*args)

    monkeypatch.setattr(Slab, "put", put)
    expect_one_refused(engine, alone, admits, FailureCode.INTERNAL_ERROR)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("is_late", [False, True])
def test_a_row_that_is_seated_by_half_for_the_kernels(
    make_engine: MakeEngine, admits: list[Admit], monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    alone = ends(run(make_engine(), admits))
    engine = make_engine()
    whole, fail = NativePlace.seat, once_in(0, RuntimeError("half"))

    def seat(place: NativePlace, slot: int, blocks: Any) -> None:
        if is_late:
            whole(place, slot, blocks)
        fail()
        whole(place, slot, blocks)

    monkeypatch.setattr(NativePlace, "seat", seat)
    expect_one_refused(engine, alone, admits, FailureCode.INTERNAL_ERROR)


def test_a_cache_that_cannot_be_put_in_whole(
    make_engine: MakeEngine, admits: list[Admit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are there, values are not."""
    alone = ends(run(make_engine(), admits))
    engine = make_engine()
    whole = prefix_tuning.prefix_states
    fail = once_in(0, RuntimeError())

    def half(prefixes: Any) -> Any:
        states = whole(prefixes)
        if states:
            try:
                fail()
            except RuntimeError:
                return [states[0], (states[1][0], states[1][1][:, :, :3])]
        return states

    monkeypatch.setattr(runner, "prefix_states", half)
    expect_one_refused(engine, alone, admits, FailureCode.INTERNAL_ERROR)


@pytest.mark.parametrize("after", [1, 6, 40])
@pytest.mark.parametrize("error", [ValueError("grammar"), Panic("rust")], ids=["error", "panic"])
@pytest.mark.parametrize("verb", ["fill", "accept"])
def test_a_grammar_that_throws(
    make_engine: MakeEngine,
    admits: list[Admit],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    error: BaseException,
    after: int,
) -> None:
    alone = ends(run(make_engine(), admits))
    engine = make_engine()
    whole, fail = getattr(Compiled, verb), once_in(after, error)

    def failing(grammar: Compiled, *args: Any) -> None:
        if engine._runner.rows:  # not while it is compiled
            fail()
        whole(grammar, *args)

    monkeypatch.setattr(Compiled, verb, failing)
    expect_one_refused(engine, alone, admits, FailureCode.INTERNAL_ERROR)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("shapes"), FailureCode.INTERNAL_ERROR),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FailureCode.ENGINE_FAILED),
        (torch.OutOfMemoryError("CUDA"), FailureCode.ENGINE_FAILED),
        (MemoryError("sums"), FailureCode.ENGINE_FAILED),
    ],
    ids=["shapes", "cpu memory", "cuda memory", "kernel memory"],
)
@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("from_token", [0, 3])
def test_a_pass_that_fails_with_one_row(
    make_engine: MakeEngine,
    admits: list[Admit],
    monkeypatch: pytest.MonkeyPatch,
    decodes: bool,
    from_token: int,
    error: Exception,
    code: FailureCode,
) -> None:
    """After all layers have been written; others are in it as well."""
    alone = ends(run(make_engine(), admits))
    engine = make_engine(max_step_tokens=100)
    failing = True

    def culprit(row: Row) -> bool:
        return row.request.id == "lora" and row.decodes == decodes and len(row.token_ids) >= from_token * decodes

    def failing_at_its_end(way: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run_and_fail(self: runner.Runner, slots: slice, *args: Any) -> torch.Tensor:
            logits = way(self, slots, *args)
            if failing and any(culprit(row) for row in self.rows[slots]):
                raise error
            return logits

        return run_and_fail

    for way in ("_ragged", "_padded"):
        monkeypatch.setattr(runner.Runner, way, failing_at_its_end(getattr(runner.Runner, way)))
    found = ends(run(engine, admits))
    refused = {id_: end.code for id_, end in found.items() if isinstance(end, Refused)}
    assert refused == {"attempt-lora": code}
    assert {i: e for i, e in found.items() if i not in refused} == {i: e for i, e in alone.items() if i not in refused}
    expect_nothing_left(engine)
    failing = False
    assert ends(run(engine, admits)) == alone


def test_no_memory_for_a_longer_text_ends_the_longest_and_keeps_the_caches_whole(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the layers: the first has grown already. So it is where a device promises no room before."""

    def refused(*_: Any) -> torch.Tensor:
        raise OSError(errno.ENOMEM, "no memory is promised")

    monkeypatch.setattr(large_pages, "zeros_to_be", refused)
    form = Regex("[a-z]{20,30}")
    admits = [make_admit(f"{i}", max_tokens=30, output=form) for i in range(3)]
    huge = make_admit("x" * 300, max_tokens=30, output=form)
    alone = ends(run(make_engine(), [*admits, huge]))
    engine = make_engine()
    for admit in admits:
        engine.add(admit)
    messages = [message for _ in range(4) for message in engine.step(1000.0)]
    new_zeros, calls = torch.Tensor.new_zeros, iter(range(10**9))

    def scarce(tensor: torch.Tensor, *shape: Any, **kwargs: Any) -> torch.Tensor:
        if len(shape) == 4 and shape[0] > 16 and next(calls) >= 1:
            raise torch.OutOfMemoryError
        return new_zeros(tensor, *shape, **kwargs)

    monkeypatch.setattr(torch.Tensor, "new_zeros", scarce)
    found = ends(messages + run(engine, [huge]))
    end = found.pop(huge.id)
    assert isinstance(end, Refused)
    assert (end.code, "not enough memory" in end.message) == (FailureCode.ENGINE_FAILED, True)
    assert found == {admit.id: alone[admit.id] for admit in admits}
    expect_nothing_left(engine)
    monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)
    assert ends(run(engine, [*admits, huge])) == alone


def test_what_fails_without_any_row_is_not_one_rows_fault(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is gone: nobody is refused, for the next process may answer them."""
    engine = make_engine()
    for i in range(3):
        engine.add(make_admit(f"{i}", max_tokens=30))
    messages = list(engine.step(1000.0))

    def gone(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(runner.Runner, "_forward", gone)
    with pytest.raises(RuntimeError, match="gone"):
        engine.step(1000.0)
    assert not ends(messages)


def test_an_order_to_end_is_no_fault_of_a_row(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    engine.add(make_admit())

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchedAdapters, "seat", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step(1000.0)


def test_a_row_without_guidance_is_not_told_to_train_it(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, bare, fine = make_engine(), make_admit("bare", id="bare"), make_admit("fine")
    side_by_side = runner.Runner._side_by_side

    def wrong(self: runner.Runner, found: Any) -> torch.Tensor:
        logits = side_by_side(self, found)
        for i, row in enumerate(self.rows[: len(logits)]):
            if row.request.id == "bare" and len(row.token_ids) == 2:
                logits[i, 7] = torch.nan
        return logits

    monkeypatch.setattr(runner.Runner, "_side_by_side", wrong)
    found = ends(run(engine, [bare, fine]))
    end = found[bare.id]
    assert isinstance(end, Refused)
    assert (end.code, "train" in end.message) == (FailureCode.ENGINE_FAILED, False)
    assert isinstance(found[fine.id], Finished)


def test_a_clock_that_is_set_back_does_not_silence_the_engine(engine: Engine, make_admit: MakeAdmit) -> None:
    """Or it would be ended for its silence, busy with one long text."""
    engine.add(make_admit(max_tokens=40, output=Regex("[a-z]{100}")))
    told = [len(engine.step(now)) > 0 for now in (90_000.0, 1_000.0, 1_000.5, 1_001.1)]
    assert told == [True, True, False, True]
