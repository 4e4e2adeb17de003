"""From requests to tokens and grammars: in threads beside the steps of the model, in a fair order."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import Lane
from guideway.schemas.output import WordLabels
from guideway.schemas.request import Request
from guideway.workers.engine.faults import refusal_of
from guideway.workers.engine.guidance.resident import RowGuidance
from guideway.workers.engine.text.aside import Aside
from guideway.workers.engine.text.grammar import Grammar
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.prompt import Prompt, PromptLayout
from guideway.workers.messages.to_engine import Admit

J = TypeVar("J")
_ONE_IN: Final = 8
"""While requests of both lanes wait, one in so many taken is of the batch lane."""
_WAITING: Final = 16
"""So many threads for each that may be at work: as many namespaces may wait for long calls of theirs, and hold up no
other."""


class Prepared(NamedTuple):
    """What is made of a request without the model."""

    prompt: Prompt
    grammar: Grammar | None
    """The grammar at its beginning, which each row forks; None for free text."""


class Preparation:
    """Owner of the requests that are prepared, of their order, and of the threads that prepare them.

    Only one request of a namespace is prepared at a time. So one that takes long holds up its own namespace and, as
    long as there are two threads, no other. The threads share the layout and the grammars, which are safe to share.
    There are some more threads: those that only wait for a long call of theirs hold up nobody.
    """

    def __init__(
        self, layout: PromptLayout, grammars: Grammars, *, max_tokens: int, threads: int, aside: Aside | None = None
    ) -> None:
        """max_tokens: of the longest sequence. threads: with 0, `begin` returns only when the request is prepared.
        aside: makes the long calls of `layout` and `grammars`, and has a place for each of `threads`.
        """
        self._layout = layout
        self._grammars = grammars
        self._max_tokens = max_tokens
        self._aside = aside
        most = threads * _WAITING if aside is not None else threads
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="prepare") if threads else None
        self._turns: Turns[_Job] = Turns()
        self._turn = Lock()
        self._known: dict[str, Future[Prepared]] = {}

    def begin(self, admit: Admit) -> None:
        """Prepare a request when its turn comes."""
        future = self._known[admit.id] = Future()
        if self._threads is None:
            self._prepare(admit, future)
            return
        with self._turn:
            self._turns.add(_Job(admit, future), admit.lane, admit.request.calling_namespace)
        self._threads.submit(self._go_on)

    def is_ready(self, id_: str) -> bool:
        """Whether a request that was begun can be taken: it is prepared, or `take` tells why not. Starts nothing."""
        return self._known[id_].done()

    def take(self, id_: str) -> Prepared:
        """Give away what was prepared of a request; blocks until it is ready.

        Raises: Refusal `text_too_long`, `output_unsatisfiable`, `output_incomplete`; `internal_error` for our faults.
        """
        return self._known.pop(id_).result()

    def drop(self, id_: str) -> None:
        """Forget a request, if it is here. If a thread is preparing it, the thread goes on and the result is unused."""
        if (future := self._known.pop(id_, None)) is not None:
            future.cancel()

    @property
    def missing(self) -> Set[Future[Prepared]]:
        """The requests that are not ready."""
        return {future for future in self._known.values() if not future.done()}

    def _go_on(self) -> None:
        """Prepare requests in turn until none can be taken. Runs in one of the threads."""
        more = True
        while more:
            with self._aside.place() if self._aside is not None else contextlib.nullcontext():
                more = self._prepare_next()

    def _prepare_next(self) -> bool:
        """Prepare the request whose turn it is. False if none can be taken."""
        with self._turn:
            job = self._turns.take()
        if job is None:
            return False
        try:
            if job.future.set_running_or_notify_cancel():
                self._prepare(*job)
        finally:
            with self._turn:
                self._turns.release(job.admit.request.calling_namespace)
        return True

    def _prepare(self, admit: Admit, future: Future[Prepared]) -> None:
        try:
            future.set_result(self._prepared(admit.request, admit.biases))
        # A library in Rust that panics raises a BaseException that is no Exception.
        except BaseException as error:
            future.set_exception(refusal_of(error, id=admit.id))

    def _prepared(self, request: Request, biases: Mapping[str, float]) -> Prepared:
        max_tokens = request.generation.max_tokens
        if isinstance(request.output, WordLabels) and (least := 2 * len(request.words)) > max_tokens:
            raise too_many_words(len(request.words), least, max_tokens)
        prompt = self._layout.encode(request.parts, limit=self._max_tokens - max_tokens)
        grammar = self._grammars.start(request.output, request.words, biases)
        if grammar is not None and (least := grammar.fewest_tokens) > max_tokens:
            if isinstance(request.output, WordLabels):
                raise too_many_words(len(request.words), least, max_tokens)
            raise Refusal(
                FailureCode.OUTPUT_INCOMPLETE,
                f"the shortest label has {least} tokens, generation.max_tokens is {max_tokens}: raise it",
            )
        return Prepared(prompt, grammar)


class _Job(NamedTuple):
    admit: Admit
    future: Future[Prepared]


class Turns(Generic[J]):
    """Owner of the order in which jobs are taken. The namespaces take turns, and each has one job in work at most.

    The interactive lane goes before the batch lane. While both wait, one in eight jobs taken is of the batch lane.
    """

    def __init__(self) -> None:
        self._queues: dict[Lane, OrderedDict[str, deque[J]]] = {"interactive": OrderedDict(), "batch": OrderedDict()}
        """By lane and namespace; the namespace that was served longest ago comes first; no queue is empty."""
        self._in_work: set[str] = set()
        self._since_batch = 0

    def add(self, job: J, lane: Lane, namespace: str) -> None:
        """Let a job wait for its turn."""
        self._queues[lane].setdefault(namespace, deque()).append(job)

    def take(self) -> J | None:
        """The next job, whose namespace is in work until it is released; None if no job can be taken now."""
        both = all(self._queues.values())
        lanes: list[Lane] = ["interactive", "batch"]
        for lane in lanes if self._since_batch < _ONE_IN - 1 else reversed(lanes):
            queues = self._queues[lane]
            namespace = next((name for name in queues if name not in self._in_work), None)
            if namespace is None:
                continue
            queue = queues.pop(namespace)
            job = queue.popleft()
            if queue:
                queues[namespace] = queue
            self._in_work.add(namespace)
            self._since_batch = self._since_batch + 1 if both and lane == "interactive" else 0
            return job
        return None

    def release(self, namespace: str) -> None:
        """Note that this namespace's job is done, so that its next one can be taken."""
        self._in_work.discard(namespace)


def too_many_words(words: int, least: int, max_tokens: int) -> Refusal:
    """The refusal of a text with more words than there is room for labels."""
    return Refusal(
        FailureCode.TEXT_TOO_LONG,
        f"{words} words and their labels are at least {least} tokens of output, and generation.max_tokens is "
        f"{max_tokens}: shorten the text, or raise it",
    )


def check_length(guidance: RowGuidance, text_tokens: int, max_tokens: int, most: int) -> None:
    """Check that guidance, text and `max_tokens` fit into `most` tokens. Raises: Refusal `text_too_long` if not."""
    virtual_tokens = guidance.prefix_tokens + guidance.virtual_tokens
    excess = virtual_tokens + text_tokens + max_tokens - most
    if excess > 0:
        virtual = f"{virtual_tokens} virtual tokens, " if virtual_tokens else ""
        raise Refusal(
            FailureCode.TEXT_TOO_LONG,
            f"{virtual}{text_tokens} tokens of text and max_tokens {max_tokens} are {excess} more than the {most} of "
            "this model size: shorten the text or lower max_tokens",
        )
