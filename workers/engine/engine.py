"""The engine: requests in, texts out. Its heart is `step`: schedule, run, collect, tell."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import structlog

from guideway.catalogue.artefacts.contents import Altered
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.cancellation import cancelled_by_caller
from guideway.workers.engine.faults import refusing
from guideway.workers.engine.guidance.resident import ResidentGuidance
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.kv_cache import PAGE_TOKENS
from guideway.workers.engine.model.model_kind import check_kind, context_of, settings_of
from guideway.workers.engine.model.prefix_cache import PrefixCache
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling.admission import Admission
from guideway.workers.engine.scheduling.chunks import BESIDE_OTHERS, StepPlan
from guideway.workers.engine.scheduling.prefetch import GuidancePrefetch
from guideway.workers.engine.scheduling.preparation import Preparation
from guideway.workers.engine.scheduling.row import Row, RowStatus
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.engine.scheduling.stopping import Stopping, failed, told
from guideway.workers.engine.scheduling.streaming import Streaming
from guideway.workers.engine.statistics import Statistics
from guideway.workers.engine.text.aside import Aside, here
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import FromEngine
from guideway.workers.messages.to_engine import Admit, EngineSettings

_ROWS_AHEAD: Final = 4
"""So many rows that come next have their guidance read before there is a seat for them."""
_LOOK_S: Final = 0.01
"""Where nothing runs: how long a step waits for guidance or texts before it looks whether other requests have come."""
_LATE: Final = "its deadline passed before the result was there: send it again with a later deadline, or none"

log = structlog.get_logger()


class Engine:
    """One frozen model and the rows on it. Every request added ends in exactly one `Finished` or `Refused`.

    Owner of the open requests and of the messages that the next `step` returns. Requests that arrive belong to
    `Admission`, rows that wait or run to `Scheduler`, seats to `Runner`, counts to `Statistics`. Not thread-safe.

    A fault of one row refuses that row only, also while it is seated or runs. An exception out of `step` concerns all
    rows: the engine is then unusable, and the process is to end.
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
        self._runner = Runner(base, max_rows=settings.max_rows, kv_bytes=settings.kv_bytes)
        max_tokens = min(max_tokens, self._runner.kv_tokens)
        self._prefix_cache = PrefixCache(max_bytes=settings.prefix_cache_bytes)
        self._scheduler = Scheduler(
            max_rows=settings.max_rows,
            max_step_tokens=settings.max_step_tokens,
            max_kv_tokens=self._runner.kv_tokens,
            page_tokens=PAGE_TOKENS,
            prefix_cache=self._prefix_cache,
            beside_others=BESIDE_OTHERS if settings.device == "cpu" else 1,
        )
        self._guidance = ResidentGuidance(model, max_bytes=settings.guidance_bytes, threads=settings.reader_threads)
        self._ahead = GuidancePrefetch(self._guidance)
        aside = Aside(settings.preparer_threads) if settings.preparer_threads else None
        layout, ends = PromptLayout(base.tokenizer, aside=aside or here), base.eos_ids
        vocabulary = model.get_output_embeddings().weight.shape[0]
        grammars = Grammars(base.tokenizer, vocabulary=vocabulary, eos_ids=ends, layout=layout, aside=aside or here)
        self._admission = Admission(
            Preparation(layout, grammars, max_tokens=max_tokens, threads=settings.preparer_threads, aside=aside),
            self._ahead,
            max_tokens=max_tokens,
            max_prefix_tokens=settings.prefix_cache_bytes // 2 // self._runner.token_bytes,
        )
        self._stopping = Stopping(base.tokenizer, base.eos_ids, grammars.bytes_of, lead=grammars.lead)
        self._streaming = Streaming(self._stopping.bytes_from)
        self._open: dict[str, list[Row]] = {}
        """The rows of every request that has not ended, one per sample; none as long as it arrives."""
        self._outbox: list[FromEngine] = []
        self._statistics = Statistics()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to say."""
        return bool(self._open or self._outbox)

    def add(self, admit: Admit) -> None:
        """Take in a request; the next `step` answers whatever is wrong with it. One that is here already is ignored."""
        if admit.id in self._open:
            # A refusal would end the one that runs, since both have the same id.
            log.error("request is here already", id=admit.id)
            return
        self._open[admit.id] = []
        with self._refusing(admit.id):
            self._admission.begin(admit)
        self._arrive()

    def cancel(self, id_: str) -> None:
        """Refuse a request as cancelled; one that has ended already is ignored."""
        if id_ in self._open:
            self._refuse(id_, cancelled_by_caller())

    def step(self, now: float) -> list[FromEngine]:
        """Run one step of the micro-batch. Returns the messages since the last step. now: Unix time in seconds."""
        began = time.perf_counter()
        self._schedule(now)
        plan, outcomes = self._run()
        self._collect(plan, outcomes)
        return self._tell(now, busy_s=time.perf_counter() - began)

    # Schedule -------------------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        """Let arrived requests wait, seat the rows whose turn it is, and begin to read guidance for the next ones."""
        for id_ in self._admission.late(now):
            self._refuse(id_, Refusal(FailureCode.DEADLINE_EXCEEDED, _LATE))
        self._arrive()
        choice = self._scheduler.schedule(now, ready=self._ahead.ready_rows)
        for row in (*choice.admitted, *choice.unready):
            self._ahead.begin(row, row.admit.artefacts)
        for id_ in dict.fromkeys(row.id for row in choice.expired):
            self._refuse(id_, Refusal(FailureCode.DEADLINE_EXCEEDED, _LATE))
        self._unseat(choice.preempted)
        self._seat(choice.admitted)
        upcoming = self._scheduler.upcoming(_ROWS_AHEAD)
        self._ahead.keep_only({*self._admission.ids, *upcoming})
        for row in upcoming:
            self._ahead.begin(row, row.admit.artefacts)

    def _arrive(self) -> None:
        """Let the rows of requests that have arrived wait for their turn."""
        for id_ in self._admission.arrived():
            with self._refusing(id_):
                rows = self._open[id_] = self._admission.take(id_, in_use=self._in_use(self._runner.rows))
                self._scheduler.add(rows)
                self._streaming.add(rows)

    def _unseat(self, rows: Sequence[Row]) -> None:
        """Take the seats of `rows`, which wait again and hold no guidance meanwhile."""
        self._runner.leave(rows)
        for row in rows:
            row.guidance = None
        self._statistics.preempted += len(rows)

    def _seat(self, rows: Sequence[Row]) -> None:
        """Give `rows` what they hold while they run, and their seats."""
        in_use = self._in_use([*self._runner.rows, *rows])
        for row in self._alive(rows):
            with self._refusing(row):
                self._equip(row, in_use)
        # Those that a grammar leaves no choice at all need no model.
        self._end([row for row in rows if row.generated is not None])
        # Others begin with more tokens than they were admitted for.
        self._unseat(self._scheduler.make_room())
        for row in (row for row in rows if row.status is RowStatus.RUNNING):
            with self._refusing(row):
                known = self._prefix_cache.longest(row.shared_prefixes)
                self._runner.join(row, known)
                self._statistics.reused_tokens += row.cached_tokens if known else 0

    def _equip(self, row: Row, in_use: Collection[str]) -> None:
        row.guidance = self._ahead.load(row, in_use=in_use)
        if row.grammar is None and row.form is not None:
            row.grammar = row.form.fork()
            self._count(row, self._stopping.begin(row, len(self._runner.rows)))

    def _in_use(self, rows: Iterable[Row]) -> set[str]:
        """The digests of the guidance of `rows`, and of what is read ahead."""
        return self._ahead.digests.union(artefact.digest for row in rows for artefact in row.admit.artefacts)

    def _alive(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those of `rows` that have not ended. Each is looked at in its turn: a refusal ends all its siblings."""
        return (row for row in rows if row.status is not RowStatus.ENDED)

    # Run ------------------------------------------------------------------------------------------------------------

    def _run(self) -> tuple[StepPlan, dict[Row, list[int] | Refusal]]:
        """Run the seated rows one step; where there are none, wait a moment for what is being read or prepared."""
        if self._runner.rows:
            self._statistics.steps += 1
            self._say(self._statistics.members(self._runner.rows))
            plan = self._scheduler.plan_step()
            return plan, self._runner.run(plan)
        if self._open:
            missing = {*self._ahead.missing, *self._admission.missing}
            concurrent.futures.wait(missing, _LOOK_S, concurrent.futures.FIRST_COMPLETED)
        return StepPlan([], {}), {}

    # Collect --------------------------------------------------------------------------------------------------------

    def _collect(self, plan: StepPlan, outcomes: Mapping[Row, list[int] | Refusal]) -> None:
        """Give rows their new tokens, end rows that are complete, and let go of guidance beyond the budget."""
        self._keep_prefixes(row for row in plan.pieces if not isinstance(outcomes.get(row), Refusal))
        for row in self._alive(outcomes):
            with self._refusing(row):
                self._read(row, outcomes[row])
        self._end([row for row in self._runner.rows if row.generated is not None])
        # After a step without rows as well: those that were equipped may all have ended before they ran.
        self._guidance.keep_to_budget(self._in_use(self._runner.rows))

    def _keep_prefixes(self, rows: Iterable[Row]) -> None:
        """Cache the prefixes that `rows` were the first to take in. A row whose copy finds no memory is refused."""
        for row in self._alive(rows):
            for prefix in row.shared_prefixes:
                if prefix.key not in self._prefix_cache and row.cached_tokens >= prefix.tokens:
                    with self._refusing(row):
                        self._prefix_cache.keep(prefix.key, self._runner.copy(row, prefix.tokens), row.namespace)

    def _drop_prefixes(self, rows: Sequence[Row]) -> None:
        """Forget the prompt that the samples of one request shared."""
        if len(rows) > 1:
            for prefix in rows[0].shared_prefixes:
                if prefix.tokens == rows[0].prompt_tokens - 1:
                    self._prefix_cache.drop(prefix.key)

    def _read(self, row: Row, outcome: list[int] | Refusal) -> None:
        if isinstance(outcome, Refusal):
            raise outcome
        chosen, forced = self._stopping.accept_all(row, outcome, len(self._runner.rows))
        self._statistics.output_tokens += chosen
        self._scheduler.charge(row, chosen - 1)
        self._count(row, forced)

    def _count(self, row: Row, forced: int) -> None:
        """Count tokens that came in any case: they are output, and they are computed, though not one by one."""
        self._statistics.output_tokens += forced
        self._statistics.forced_tokens += forced
        self._scheduler.charge(row, forced)

    def _end(self, rows: Sequence[Row]) -> None:
        """Free what ended `rows` hold, and answer the requests whose last samples they are."""
        for row in rows:
            self._ahead.drop(row)
        self._scheduler.drop(rows)
        self._runner.leave(rows)
        for row in rows:
            self._finish(row.id)

    def _finish(self, id_: str) -> None:
        """Answer a request if all its samples have ended."""
        rows = self._open.get(id_, [])
        if rows and all(row.status is RowStatus.ENDED for row in rows):
            del self._open[id_]
            self._drop_prefixes(rows)
            self._outbox.append(told(id_, rows))

    def _refuse(self, id_: str, refusal: Refusal) -> None:
        """Answer a request with a failure and end all its rows."""
        rows = self._open.pop(id_, [])
        self._admission.drop(id_)
        for row in rows:
            self._ahead.drop(row)
        self._drop_prefixes(rows)
        self._scheduler.drop(rows)
        self._runner.leave(rows)
        altered = refusal.digest if isinstance(refusal, Altered) else ""
        self._outbox.append(Refused(id=id_, code=refusal.code, message=refusal.message, altered=altered))

    def _fail(self, row: Row, refusal: Refusal) -> None:
        """End one sample with a failure; its siblings go on."""
        row.generated = failed(refusal)
        self._end([row])

    def _refusing(self, whom: str | Row) -> AbstractContextManager[None]:
        """A context in which an exception refuses this request (by its id), or fails this sample; the others go on."""
        if isinstance(whom, Row):
            return refusing(whom.id, lambda refusal: self._fail(whom, refusal))
        return refusing(whom, lambda refusal: self._refuse(whom, refusal))

    # Tell -----------------------------------------------------------------------------------------------------------

    def _tell(self, now: float, *, busy_s: float) -> list[FromEngine]:
        """All that there is to tell since the last step, which took `busy_s` seconds."""
        self._statistics.busy_s += busy_s
        running, waiting, rows = self._scheduler.running, self._scheduler.waiting, self._runner.rows
        progress = self._statistics.progress(now, running=running, waiting=waiting, idle=not self._open, rows=rows)
        self._say(progress)
        outbox, self._outbox = self._outbox, []
        pieces = self._streaming.pieces(now)
        return outbox if pieces is None else [pieces, *outbox]

    def _say(self, message: FromEngine | None) -> None:
        if message is not None:
            self._outbox.append(message)
