"""Which trained guidance is in memory, and what a row holds of it."""

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
"""Of one row at one module or after one decoder layer."""


@dataclass(frozen=True)
class RowGuidance:
    """The trained guidance of one row by what it acts on; within each the order of the request stays."""

    prefixes: Sequence[PrefixTuning] = ()
    soft_prompts: Sequence[SoftPrompt] = ()
    adapters: Sequence[Adapter] = ()
    inserted: Sequence[InsertedLayer] = ()

    @classmethod
    def of(cls, trained: Sequence[Trained]) -> RowGuidance:
        """Raises: Refusal `guidance_forbidden` if it is more than one row may ask of every step."""
        _check_bounds(trained)
        return cls(
            prefixes=[item for item in trained if isinstance(item, PrefixTuning)],
            soft_prompts=[item for item in trained if isinstance(item, SoftPrompt)],
            adapters=[item for item in trained if isinstance(item, Lora | Ia3)],
            inserted=[item for item in trained if isinstance(item, InsertedLayer)],
        )

    @property
    def prefix_tokens(self) -> int:
        """Keys and values that stand before everything."""
        return sum(prefix.tokens for prefix in self.prefixes)

    @property
    def virtual_tokens(self) -> int:
        """Embeddings that stand between the prefixes and the text."""
        return sum(prompt.virtual_tokens for prompt in self.soft_prompts)


def _check_bounds(trained: Sequence[Trained]) -> None:
    """What a row has at one place, all together: every step makes room for it there, and others wait."""
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

    The budget gives way to need: what is in use stays, even where it alone is more than `max_bytes`. All methods are
    for one thread; only files are read, and tensors made of them, in others.
    """

    def __init__(self, model: PreTrainedModel, *, max_bytes: int, threads: int = 0) -> None:
        """threads: that read artefacts; with 0, whoever asks for one waits for it."""
        self._model = model
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Trained] = OrderedDict()
        self._reading: dict[tuple[str, TrainedForm], Future[Trained]] = {}
        """Each artefact is read once, however many ask meanwhile."""
        self._readers = _readers(threads) if threads else None
        self.nbytes = 0
        """Of all that is here."""

    def fetch(self, artefact: Artefact) -> Future[Trained]:
        """The guidance of `artefact` as it is in its folder; it is read from there unless it is here."""
        kind, key = FORMS[artefact.form], (artefact.digest, artefact.form)
        trained = self._kept.get(artefact.digest)
        # Somebody else may have declared the same folder as another form, and that is for its loader to refuse.
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
        """Whether `fetch` has it at once: it is in memory, or there are no threads, so that no later call is quicker.

        Starts nothing.
        """
        if self._readers is None or isinstance(self._kept.get(artefact.digest), FORMS[artefact.form]):
            return True
        reading = self._reading.get((artefact.digest, artefact.form))
        return reading is not None and reading.done()

    def load(
        self, artefact: Artefact, *, in_use: Collection[str] = (), fetched: Future[Trained] | None = None
    ) -> Trained:
        """The guidance of `artefact`, once it is `fetched`; the digests `in_use` stay.

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
        """What is here, the least recently used first."""
        return list(self._kept)

    def keep_to_budget(self, in_use: Collection[str]) -> None:
        """Let go of what is not in use, until the rest is within the budget."""
        for (digest, form), future in list(self._reading.items()):
            if future.done():
                # Whoever asked for it may have gone; it counts as any other from here on.
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

    OpenMP counts the threads of all pools, and once they are more than the cores, those of the engine no longer wait
    awake for each other: every operation takes a quarter to a half longer, for as long as the second pool is there.
    """

    def begin() -> None:
        torch.get_num_threads()  # torch gives a thread its number when it first asks, and this one is to keep the next
        torch.set_num_threads(1)

    mine = torch.get_num_threads()
    readers = ThreadPoolExecutor(threads, thread_name_prefix="guidance", initializer=begin)
    all_begun = threading.Barrier(threads + 1)
    for _ in range(threads):
        readers.submit(all_begun.wait)
    all_begun.wait()
    # What they set is theirs, and the number for threads that come later as well: those are not ours.
    torch.set_num_threads(mine)
    return readers


def _done(read: Callable[[], Trained]) -> Future[Trained]:
    future: Future[Trained] = Future()
    try:
        future.set_result(read())
    except Exception as error:
        future.set_exception(error)
    return future


def _at_scale(trained: Trained, scale: float) -> Trained:
    if isinstance(trained, Lora):
        return trained.scaled(scale)
    if scale != 1:
        raise damaged("only a lora takes a scale: name it without")
    return trained
