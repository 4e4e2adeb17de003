"""The cache on this machine's disk: bounded, shared by processes, and what is held stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings

HOLDER = """
import sys, time
from pathlib import Path
from guideway.catalogue.artefacts.cache import ArtefactCache
cache = ArtefactCache(Path(sys.argv[1]))
def fetch(folder):
    (folder / "weights").write_bytes(b"x" * 100)
    if sys.argv[3] == "half":
        print("here", flush=True)
        time.sleep(600)
cache.hold(sys.argv[2], fetch)
print("here", flush=True)
time.sleep(600)
"""


def of(size: int) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * size)

    return fetch


def nothing(folder: Path) -> None:
    raise AssertionError("it is here")


def names(cache: ArtefactCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def used_in_order(cache: ArtefactCache, *order: str) -> None:
    for at, name in enumerate(order):
        os.utime(cache.folder / name, (at, at))


@pytest.fixture
def cache(tmp_path: Path) -> ArtefactCache:
    return ArtefactCache(tmp_path / "cache", max_bytes=250)


def test_what_was_not_used_for_longest_goes_first(cache: ArtefactCache) -> None:
    for name in "ab":
        cache.hold(name, of(100))
        cache.let_go(name)
    used_in_order(cache, "b", "a")
    cache.hold("c", of(100))
    assert names(cache) == ["a", "c"]
    cache.hold("a", nothing)
    cache.let_go("a")
    cache.let_go("c")
    used_in_order(cache, "c", "a")
    cache.hold("d", of(200))
    assert names(cache) == ["d"]


def test_what_is_held_stays_whatever_it_weighs(cache: ArtefactCache) -> None:
    cache.hold("a", of(200))
    cache.hold("a", nothing)
    cache.let_go("a")
    cache.hold("b", of(1000))
    assert names(cache) == ["a", "b"], "a is held once more, b as well"
    cache.let_go("a")
    cache.hold("c", of(1))
    assert names(cache) == ["b", "c"]


def test_a_fetch_that_fails_leaves_and_holds_nothing(cache: ArtefactCache) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise Refusal(FailureCode.GUIDANCE_MISSING, "it is not there")

    with pytest.raises(Refusal):
        cache.hold("a", fails)
    assert names(cache) == []
    cache.hold("a", of(300))
    cache.let_go("a")
    cache.hold("b", of(1))
    assert names(cache) == ["b"]


def other_process(cache: ArtefactCache, name: str, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache.folder), name, how],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


def ended(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_what_another_process_holds_stays_until_that_is_killed(cache: ArtefactCache) -> None:
    process = other_process(cache, "theirs", "whole")
    try:
        cache.hold("ours", of(200))
        assert names(cache) == ["ours", "theirs"]
    finally:
        ended(process)
    cache.hold("more", of(1))
    assert names(cache) == ["more", "ours"]


def test_what_a_killed_process_left_half_fetched_is_removed(cache: ArtefactCache) -> None:
    process = other_process(cache, "theirs", "half")
    try:
        cache.hold("a", of(1))
        assert len(names(cache)) == 2, "it is being fetched"
    finally:
        ended(process)
    cache.hold("b", of(1))
    assert names(cache) == ["a", "b"]
    (cache.folder / ".gone-1").mkdir()
    cache.trim()
    assert names(cache) == ["a", "b"]


@pytest.mark.parametrize("text", ["ten", "-1", "1e9", "9" * 19])
def test_a_budget_is_a_number_of_bytes(text: str) -> None:
    with pytest.raises(Refusal, match="GUIDEWAY_ARTEFACT_CACHE_BYTES") as caught:
        Settings.from_environ({"GUIDEWAY_ARTEFACT_CACHE_BYTES": text})
    assert caught.value.code is FailureCode.INVALID_SETTING
    assert Settings.from_environ({"GUIDEWAY_ARTEFACT_CACHE_BYTES": "5"}).artefact_cache.max_bytes == 5
