"""The trained guidance that is in memory, and the part of it that a row holds."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel

from guideway.catalogue.adapters.forms import MAX_BOTTLENECK, MAX_RANK
from guideway.catalogue.artefacts.contents import Altered
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import TrainedForm
from guideway.workers.engine.guidance.batched_adapters import Adapter
from guideway.workers.engine.guidance.ia3 import Ia3
from guideway.workers.engine.guidance.inserted_layer import InsertedLayer
from guideway.workers.engine.guidance.lora import Lora
from guideway.workers.engine.guidance.peft_folder import damaged
from guideway.workers.engine.guidance.prefix_tuning import PrefixTuning
from guideway.workers.engine.guidance.soft_prompt import SoftPrompt
from guideway.workers.messages.to_engine import Artefact

Trained = SoftPrompt | PrefixTuning | Lora | Ia3 | InsertedLayer

FORMS: Final[Mapping[TrainedForm, type[Trained]]] = {
    "soft_prompt": SoftPrompt,
    "prefix": PrefixTuning,
    "lora": Lora,
    "ia3": Ia3,
    "inserted_layer": InsertedLayer,
}


_BOUNDS: Final = {"rank": MAX_RANK, "bottleneck": MAX_BOTTLENECK, "inserted layers": 8}
"""How much one row may have at one module or after one decoder layer."""


@dataclass(frozen=True)
class RowGuidance:
    """The trained guidance of one row, by what it acts on. Each sequence keeps the order of the request."""

    prefixes: Sequence[PrefixTuning] = ()
    soft_prompts: Sequence[SoftPrompt] = ()
    adapters: Sequence[Adapter] = ()
    inserted: Sequence[InsertedLayer] = ()

    @classmethod
    def of(cls, trained: Sequence[Trained]) -> RowGuidance:
        """The guidance of a row with these artefacts, in the order of the request.

        Raises: Refusal `guidance_forbidden` if it is more at one place than a row may have.
        """
        _check_bounds(trained)
        return cls(
            prefixes=[item for item in trained if isinstance(item, PrefixTuning)],
            soft_prompts=[item for item in trained if isinstance(item, SoftPrompt)],
            adapters=[item for item in trained if isinstance(item, Lora | Ia3)],
            inserted=[item for item in trained if isinstance(item, InsertedLayer)],
        )

    @property
    def prefix_tokens(self) -> int:
        """Number of positions of keys and values that stand before everything."""
        return sum(prefix.tokens for prefix in self.prefixes)

    @property
    def virtual_tokens(self) -> int:
        """Number of embeddings that stand between the prefixes and the text."""
        return sum(prompt.virtual_tokens for prompt in self.soft_prompts)


def _check_bounds(trained: Sequence[Trained]) -> None:
    """Check the sum of what a row has at one place: the pass of all rows grows with it, so others wait for it."""
    at_place: Counter[tuple[str, object]] = Counter()
    for item in trained:
        if isinstance(item, Lora):
            at_place.update({("rank", name): factors.rank for name, factors in item.factors.items()})
        elif isinstance(item, InsertedLayer):
            at_place.update({("bottleneck", k): len(block.down) for k, block in item.blocks.items()})
            at_place.update({("inserted layers", k): 1 for k in item.blocks})
    for (what, place), number in at_place.items():
        if number > _BOUNDS[what]:
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"the guidance of this request has {what} {number} together at {place!r}, at most {_BOUNDS[what]} may "
                "be there: leave some out",
            )


class ResidentGuidance:
    """Trained guidance by digest, least recently used out first; owner of what is kept and of the threads that read it.

    Guidance in use stays, even where it alone is more than `max_bytes`. All methods are for one thread. Only the
    reading of files and the making of tensors happens in others.
    """

    def __init__(self, model: PreTrainedModel, *, max_bytes: int, threads: int = 0) -> None:
        """max_bytes: of what is kept. threads: those that read artefacts; with 0, `fetch` reads before it returns."""
        self._model = model
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Trained] = OrderedDict()
        self._reading: dict[tuple[str, TrainedForm], Future[Trained]] = {}
        """By (digest, form): an artefact is read once, however many ask for it meanwhile."""
        self._readers = _readers(threads) if threads else None
        self.nbytes = 0
        """Bytes of all guidance in memory."""

    def fetch(self, artefact: Artefact) -> Future[Trained]:
        """The guidance of `artefact`, without its scale; begins to read it from its folder unless it is in memory."""
        kind, key = FORMS[artefact.form], (artefact.digest, artefact.form)
        trained = self._kept.get(artefact.digest)
        # The same folder may have been declared as another form; the loader of that form refuses it.
        if isinstance(trained, kind):
            return _done(lambda: trained)
        if key not in self._reading:
            folder, digest = Path(artefact.folder), artefact.digest if artefact.by_content else None
            if self._readers is None:
                self._reading[key] = _done(lambda: kind.load(folder, self._model, digest))
            else:
                self._reading[key] = self._readers.submit(kind.load, folder, self._model, digest)
        return self._reading[key]

    def is_at_hand(self, artefact: Artefact) -> bool:
        """Whether there is no reason to wait with `load`: `artefact` is in memory, or its reading is done, or there are
        no threads that could read it meanwhile. Starts nothing.
        """
        if self._readers is None or isinstance(self._kept.get(artefact.digest), FORMS[artefact.form]):
            return True
        reading = self._reading.get((artefact.digest, artefact.form))
        return reading is not None and reading.done()

    def load(
        self, artefact: Artefact, *, in_use: Collection[str] = (), fetched: Future[Trained] | None = None
    ) -> Trained:
        """The guidance of `artefact` at its scale; blocks until it is `fetched`. The digests `in_use` stay in memory.

        Raises: Refusal `guidance_damaged` if it cannot be read, does not fit the model, or has a scale that it cannot
        have; Altered if its folder does not hold what its digest says.
        """
        fetched = fetched or self.fetch(artefact)
        try:
            trained = fetched.result()
            scaled = _at_scale(trained, artefact.scale)
        except Altered as altered:
            raise Altered(altered.digest, f"guidance {artefact.name}: {altered.message}") from altered
        except Refusal as refusal:
            raise Refusal(refusal.code, f"guidance {artefact.name} is refused: {refusal.message}") from refusal
        finally:
            if self._reading.get((artefact.digest, artefact.form)) is fetched:
                del self._reading[artefact.digest, artefact.form]
        self._keep(artefact.digest, trained)
        self.keep_to_budget({*in_use, artefact.digest})
        return scaled

    @property
    def digests(self) -> list[str]:
        """The digests of all guidance in memory, the least recently used first."""
        return list(self._kept)

    def keep_to_budget(self, in_use: Collection[str]) -> None:
        """Let go of guidance that is not in use, until the rest is within the budget."""
        for (digest, form), future in list(self._reading.items()):
            if future.done():
                # Whoever asked for it may have gone; from here on it counts as guidance in memory.
                del self._reading[digest, form]
                if future.exception() is None:
                    self._keep(digest, future.result())
        if self.nbytes <= self._max_bytes:
            return
        for digest in [digest for digest in self._kept if digest not in in_use]:
            self.nbytes -= self._kept.pop(digest).nbytes
            if self.nbytes <= self._max_bytes:
                return

    def _keep(self, digest: str, trained: Trained) -> None:
        if self._kept.get(digest) is not trained:
            if digest in self._kept:
                self.nbytes -= self._kept[digest].nbytes
            self._kept[digest] = trained
            self.nbytes += trained.nbytes
        self._kept.move_to_end(digest)


def _readers(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch computes alone, without a pool of further threads.

    OpenMP counts the threads of all pools. Once they are more than the cores, the engine's threads no longer wait awake
    for each other, and every operation takes a quarter to a half longer for as long as the second pool is there.
    """

    def begin() -> None:
        torch.get_num_threads()  # torch sets a thread's number when it first asks; after that our number stays
        torch.set_num_threads(1)

    mine = torch.get_num_threads()
    readers = ThreadPoolExecutor(threads, thread_name_prefix="guidance", initializer=begin)
    all_begun = threading.Barrier(threads + 1)
    for _ in range(threads):
        readers.submit(all_begun.wait)
    all_begun.wait()
    # Setting it in a thread also sets the number for threads that come later, which are not ours.
    torch.set_num_threads(mine)
    return readers


def _done(read: Callable[[], Trained]) -> Future[Trained]:
    future: Future[Trained] = Future()
    try:
        future.set_result(read())
    # As a thread's: a library in Rust that panics raises a BaseException that is no Exception.
    except BaseException as error:
        future.set_exception(error)
    return future


def _at_scale(trained: Trained, scale: float) -> Trained:
    if isinstance(trained, Lora):
        return trained.scaled(scale)
    if scale != 1:
        raise damaged("only a lora takes a scale: name it without")
    return trained
