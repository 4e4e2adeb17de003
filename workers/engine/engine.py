"""The engine: requests in, texts out. Its heart is `step`: choose, run, collect."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import structlog

from guideway.catalogue.artefacts.contents import Altered
from guideway.schemas.cancellation import cancelled_by_caller
from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.faults import refusing
from guideway.workers.engine.guidance.resident import ResidentGuidance
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.model_kind import check_kind, context_of, settings_of
from guideway.workers.engine.model.prefix_cache import PrefixCache, shared_prefixes_of
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling.chunks import BESIDE_OTHERS
from guideway.workers.engine.scheduling.prefetch import GuidancePrefetch
from guideway.workers.engine.scheduling.preparation import Preparation, check_length
from guideway.workers.engine.scheduling.row import Row, is_late
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.engine.scheduling.stopping import Stopping, failed, told
from guideway.workers.engine.statistics import Statistics
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.engine.text.sampling import Sampler
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import FromEngine
from guideway.workers.messages.to_engine import Admit, EngineSettings

_ROWS_AHEAD: Final = 4
"""Rows next in turn, whose guidance is in memory already."""
_LOOK_S: Final = 0.01
"""Where nothing runs: how long guidance that is being read is awaited before the next look at who else has come."""
_LATE: Final = "its deadline passed before the result was there: send it again with a later deadline, or none"

log = structlog.get_logger()


class Engine:
    """One frozen model and the rows on it. Every request added ends in exactly one `Finished` or `Refused`.

    Not thread-safe. What goes wrong with one row refuses that row, also while it is seated or runs. An exception out of
    `step` leaves the engine unusable: what went wrong concerns all rows, and the process is to end.
    """

    def __init__(self, base: BaseModel, settings: EngineSettings, *, max_context_tokens: int) -> None:
        """max_context_tokens: the longest sequence wanted; the model's own limit holds as well.

        Raises: Refusal `unsupported_model` if the model is of a kind that the engine does not run.
        """
        model = base.model
        self.fingerprint, self.former_fingerprint = base.fingerprint, base.former_fingerprint
        settled = settings_of(model.config)
        check_kind(settled)
        max_tokens = min(max_context_tokens, base.context_tokens, context_of(settled) or max_context_tokens)
        self._runner = Runner(base, max_rows=settings.max_rows, max_tokens=max_tokens, kv_bytes=settings.kv_bytes)
        self._max_tokens = min(max_tokens, self._runner.kv_tokens)
        self._prefix_cache = PrefixCache(max_bytes=settings.prefix_cache_bytes)
        self._max_prefix_tokens = settings.prefix_cache_bytes // self._runner.token_bytes
        self._scheduler = Scheduler(
            max_rows=settings.max_rows,
            max_step_tokens=settings.max_step_tokens,
            max_kv_tokens=self._runner.kv_tokens,
            prefix_cache=self._prefix_cache,
            beside_others=BESIDE_OTHERS if settings.device == "cpu" else 1,
        )
        self._guidance = ResidentGuidance(model, max_bytes=settings.guidance_bytes, threads=settings.reader_threads)
        self._ahead = GuidancePrefetch(self._guidance)
        layout = PromptLayout(base.tokenizer)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        grammars = Grammars(base.tokenizer, vocabulary=vocabulary, eos_ids=base.eos_ids, layout=layout)
        self._preparation = Preparation(
            layout, grammars, max_tokens=self._max_tokens, threads=settings.preparer_threads
        )
        self._stopping = Stopping(base.tokenizer, base.eos_ids, grammars.bytes_of, lead=grammars.lead)
        self._open: dict[str, list[Row]] = {}
        """The rows of every request that has not ended, one per sample; none as long as it arrives."""
        self._arriving: dict[str, Admit] = {}
        """Requests whose guidance is being read for the first time, or whose text is being prepared."""
        self._outbox: list[FromEngine] = []
        self._statistics = Statistics()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to say."""
        return bool(self._open or self._outbox)

    def add(self, admit: Admit) -> None:
        """Take in a request; whatever is wrong with it is answered by the next `step`."""
        if admit.id in self._open:
            # To refuse it would end the one that runs.
            log.error("request is here already", id=admit.id)
            return
        self._open[admit.id] = []
        self._arriving[admit.id] = admit
        self._preparation.begin(admit)
        with self._refusing(admit.id):
            self._ahead.begin(admit.id, admit.artefacts)
        self._arrive()

    def cancel(self, id_: str) -> None:
        """End a request that nobody waits for any more; one that has ended already is none of our business."""
        if id_ in self._open:
            self._refuse(id_, cancelled_by_caller())

    def step(self, now: float) -> list[FromEngine]:
        """Run one step of the micro-batch; returns what there is to tell. now: Unix time in seconds."""
        began = time.perf_counter()
        self._choose(now)
        if self._runner.rows:
            self._statistics.steps += 1
            self._tell(self._statistics.members(self._runner.rows))
            plan = self._scheduler.plan_step()
            outcomes = self._runner.run(plan)
            entering = [row for chunk in plan.chunks for row in chunk.rows]
            self._keep_prefixes(row for row in entering if not isinstance(outcomes.get(row), Refusal))
            self._collect(outcomes)
        elif self._open:
            missing: set[concurrent.futures.Future[Any]] = {*self._ahead.missing, *self._preparation.missing}
            concurrent.futures.wait(missing, _LOOK_S, concurrent.futures.FIRST_COMPLETED)
        # Without rows as well: those that were equipped may all have ended before they ran.
        self._guidance.keep_to_budget(self._in_use(self._runner.rows))
        self._statistics.busy_s += time.perf_counter() - began
        running, waiting = self._scheduler.running, self._scheduler.waiting
        self._tell(self._statistics.progress(now, running=running, waiting=waiting, idle=not self._open))
        outbox, self._outbox = self._outbox, []
        return outbox

    # Choose ---------------------------------------------------------------------------------------------------------

    def _choose(self, now: float) -> None:
        for admit in [admit for admit in self._arriving.values() if is_late(admit.request, now)]:
            self._refuse(admit.id, Refusal(FailureCode.DEADLINE_EXCEEDED, _LATE))
        self._arrive()
        choice = self._scheduler.schedule(now, ready=self._ahead.ready_rows)
        for row in (*choice.admitted, *choice.unready):
            self._ahead.begin(row, row.admit.artefacts)
        for row in self._alive(choice.expired):
            self._refuse(row.id, Refusal(FailureCode.DEADLINE_EXCEEDED, _LATE))
        self._runner.leave(choice.preempted)
        for row in choice.preempted:
            row.guidance = None
        self._statistics.preempted += len(choice.preempted)
        in_use = self._in_use([*self._runner.rows, *choice.admitted])
        for row in self._alive(choice.admitted):
            with self._refusing(row):
                self._equip(row, in_use)
        for row in self._alive(choice.admitted):
            with self._refusing(row):
                known = self._prefix_cache.longest(row.shared_prefixes)
                self._runner.join(row, known)
                self._statistics.reused_tokens += row.cached_tokens if known else 0
        upcoming = self._scheduler.upcoming(_ROWS_AHEAD)
        self._ahead.keep_only({*self._arriving, *upcoming})
        for row in upcoming:
            self._ahead.begin(row, row.admit.artefacts)

    def _arrive(self) -> None:
        """Let the requests wait for their turn whose guidance is here."""
        for admit in list(self._arriving.values()):
            with self._refusing(admit.id):
                if self._ahead.is_ready(admit.id) and self._preparation.is_ready(admit.id):
                    del self._arriving[admit.id]
                    rows = self._open[admit.id] = self._rows(admit)
                    self._scheduler.add(rows)

    def _alive(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those that have not ended, seen at the moment of each: ending a request ends all its samples."""
        return (row for row in rows if row.id in self._open and row.generated is None)

    def _rows(self, admit: Admit) -> list[Row]:
        """A row for each sample, after checking all that can be checked without a step of the model."""
        request = admit.request
        prompt, grammar = self._preparation.take(admit.id)
        # Read to be checked and to be near; held only once a row is seated, so that waiting rows bound no memory.
        guidance = self._ahead.load(admit.id, in_use=self._in_use(self._runner.rows))
        check_length(guidance, len(prompt.token_ids), request.generation.max_tokens, self._max_tokens)
        samples = request.generation.samples
        prefixes = shared_prefixes_of(prompt, request.namespace, admit.artefacts, guidance, samples=samples)
        return [
            Row(
                admit=admit,
                sample=sample,
                prompt_ids=prompt.token_ids,
                virtual_tokens=guidance.virtual_tokens,
                prefix_tokens=guidance.prefix_tokens,
                form=grammar,
                sampler=Sampler.of(request.generation, request_id=request.id, sample=sample),
                shared_prefixes=[prefix for prefix in prefixes if prefix.tokens <= self._max_prefix_tokens],
            )
            for sample in range(samples)
        ]

    def _equip(self, row: Row, in_use: Collection[str]) -> None:
        """Give a row that is to be seated what it holds while it runs."""
        row.guidance = self._ahead.load(row, in_use=in_use)
        if row.grammar is None and row.form is not None:
            row.grammar = row.form.fork()

    def _in_use(self, rows: Iterable[Row]) -> set[str]:
        """The guidance of `rows` and of those whose turn is near."""
        return self._ahead.digests.union(artefact.digest for row in rows for artefact in row.admit.artefacts)

    # Collect --------------------------------------------------------------------------------------------------------

    def _collect(self, outcomes: Mapping[Row, int | Refusal]) -> None:
        for row in self._alive(outcomes):
            with self._refusing(row):
                self._read(row, outcomes[row])
        self._end([row for row in self._runner.rows if row.generated is not None])

    def _keep_prefixes(self, rows: Iterable[Row]) -> None:
        """Cache the prefixes that `rows` were the first to take in; where memory is out, the row is refused."""
        for row in self._alive(rows):
            for prefix in row.shared_prefixes:
                if prefix.key not in self._prefix_cache and row.cached_tokens >= prefix.tokens:
                    with self._refusing(row):
                        self._prefix_cache.keep(prefix.key, self._runner.copy(row, prefix.tokens))

    def _drop_prefixes(self, rows: Sequence[Row]) -> None:
        """Forget the prompt that the samples of one request shared."""
        if len(rows) > 1:
            for prefix in rows[0].shared_prefixes:
                if prefix.tokens == rows[0].prompt_tokens - 1:
                    self._prefix_cache.drop(prefix.key)

    def _read(self, row: Row, outcome: int | Refusal) -> None:
        if isinstance(outcome, Refusal):
            raise outcome
        self._stopping.accept(row, outcome)
        self._statistics.output_tokens += 1

    def _end(self, rows: Sequence[Row]) -> None:
        """Free what ended samples hold; answer the requests that have come to their end with them."""
        for row in rows:
            self._ahead.drop(row)
        self._scheduler.drop(rows)
        self._runner.leave(rows)
        for row in rows:
            self._finish(row.id)

    def _finish(self, id_: str) -> None:
        """Answer a request if all its samples have ended."""
        rows = self._open.get(id_, [])
        if rows and all(row.generated is not None for row in rows):
            del self._open[id_]
            self._drop_prefixes(rows)
            self._outbox.append(told(id_, rows))

    def _refuse(self, id_: str, refusal: Refusal) -> None:
        """Answer a request with a failure, once, and drop all its rows."""
        rows = self._open.pop(id_, [])
        self._arriving.pop(id_, None)
        self._preparation.drop(id_)
        for waiting in (id_, *rows):
            self._ahead.drop(waiting)
        self._drop_prefixes(rows)
        self._scheduler.drop(rows)
        self._runner.leave(rows)
        altered = refusal.digest if isinstance(refusal, Altered) else ""
        self._outbox.append(Refused(id=id_, code=refusal.code, message=refusal.message, altered=altered))

    def _fail(self, row: Row, refusal: Refusal) -> None:
        """End one sample, which is no result; its siblings go on."""
        row.generated = failed(refusal)
        self._end([row])

    def _refusing(self, whom: str | Row) -> AbstractContextManager[None]:
        """What goes wrong inside concerns this request, by its id, or this sample alone: the others go on."""
        if isinstance(whom, Row):
            return refusing(whom.id, lambda refusal: self._fail(whom, refusal))
        return refusing(whom, lambda refusal: self._refuse(whom, refusal))

    def _tell(self, message: FromEngine | None) -> None:
        if message is not None:
            self._outbox.append(message)
