"""What libraries take long for is done at low priority, and all else at the priority of whoever asks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llguidance
import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeEngine, ends, run, text_of
from transformers import PreTrainedTokenizerFast

from guideway.schemas.output import Regex
from guideway.workers.engine.text.aside import LOW_PRIORITY, Aside, Places, waiting
from guideway.workers.engine.text.prompt import PromptLayout

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def is_aside() -> bool:
    return threading.current_thread().name.startswith("aside")


class Noted:
    """A tokenizer that notes whether it works aside, by the length of the texts."""

    def __init__(self, encode_batch: Callable[..., Any]) -> None:
        self._encode_batch = encode_batch
        self.found: dict[int, bool] = {}

    def encode_batch(self, texts: list[str], **settings: Any) -> Any:
        self.found[sum(map(len, texts))] = is_aside()
        return self._encode_batch(texts, **settings)


def test_long_texts_are_tokenised_at_low_priority(tokenizer: PreTrainedTokenizerFast) -> None:
    layout, plain = PromptLayout(tokenizer, aside=Aside(2)), PromptLayout(tokenizer)
    noted = Noted(layout._guarded._copy.encode_batch)
    layout._guarded._copy = noted  # type: ignore[assignment]
    for text in ("x" * 100, "x" * 10_000):
        assert layout.content_ids(text) == plain.content_ids(text)
    assert layout.answers_ids(["y" * 50] * 500) == plain.answers_ids(["y" * 50] * 500)
    assert noted.found == {chars: chars > 8192 for chars in noted.found}
    assert {100, 10_000} < noted.found.keys()
    assert max(noted.found) > 12_000, "of many short texts as well"


def test_an_engine_compiles_at_low_priority(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    whole = llguidance.LLMatcher

    def noted(*args: Any, **kwargs: Any) -> Any:
        found.append(is_aside())
        return whole(*args, **kwargs)

    noted.grammar_from_regex = whole.grammar_from_regex  # type: ignore[attr-defined]
    monkeypatch.setattr(llguidance, "LLMatcher", noted)
    admit = make_admit(output=Regex("[a-z]{3}"))
    assert len(text_of(ends(run(make_engine(preparer_threads=2), [admit]))[admit.id])) == 3
    assert found == [True]


def test_places_go_to_whoever_waits_and_to_those_who_come_back_first() -> None:
    places, came = Places(1), []
    waiting: list[threading.Thread] = []

    def comes(name: str, *, first: bool) -> None:
        places.take(first=first)
        came.append(name)
        places.give()

    places.take()
    for name, first in (("one", False), ("two", False), ("back", True)):
        waiting.append(threading.Thread(target=comes, args=[name], kwargs={"first": first}))
        waiting[-1].start()
        while len(places._waiting) < len(waiting):
            time.sleep(0.001)
    places.give()
    for thread in waiting:
        thread.join(60)
    assert came == ["back", "one", "two"]
    assert places._free == 1


def test_what_goes_wrong_aside_is_told_to_whoever_asked() -> None:
    class Panic(BaseException):
        """As Rust raises it."""

    def panics() -> None:
        raise Panic

    aside, before = Aside(1), priority()
    with pytest.raises(Panic):
        aside(panics)
    assert aside(priority) == max(before, LOW_PRIORITY)
    assert priority() == before


def test_calls_that_take_long_keep_no_others_from_being_made() -> None:
    aside, over = Aside(2), threading.Event()
    with ThreadPoolExecutor(3) as callers:
        long = [callers.submit(aside, lambda: over.wait(60)) for _ in range(2)]
        try:
            assert callers.submit(aside, lambda: "made").result(30) == "made"
            assert not any(call.done() for call in long)
        finally:
            over.set()
        assert all(call.result() for call in long)


def test_who_only_waits_gives_its_place_away() -> None:
    aside, came = Aside(1), threading.Event()

    def comes() -> None:
        with aside.place():
            came.set()

    with ThreadPoolExecutor(1) as other:
        with aside.place():
            done = other.submit(comes)
            with waiting():
                assert came.wait(60)
        done.result(60)
    assert aside._places._free == 1
