"""Where the C kernels come from, and when they are not used."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.workers.engine.families import tiny
from transformers import PreTrainedTokenizerFast

from guideway.workers.engine.guidance.batched_adapters import fastest_backend
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.torch_backend import TorchBackend

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test's own. How fast what is built there would be does not matter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in native._FLAGS))
    monkeypatch.delenv("GUIDEWAY_NATIVE", raising=False)
    native.kernels.cache_clear()
    yield native.cache_folder()
    native.kernels.cache_clear()


@needs_compiler
def test_they_are_built_once_and_built_again_where_they_are_damaged(folder: Path) -> None:
    assert native.kernels() is not None
    [library] = folder.iterdir()
    built = library.stat().st_mtime_ns
    native.kernels.cache_clear()
    assert native.kernels() is not None
    assert library.stat().st_mtime_ns == built
    # A file that is loaded must not be written: another one takes its place.
    library.unlink()
    library.write_bytes(b"half a library")
    native.kernels.cache_clear()
    assert isinstance(native.kernels(), ctypes.CDLL)


def test_one_process_builds_and_others_wait_for_it(folder: Path, tmp_path: Path) -> None:
    slow = _compiler(tmp_path, 'sleep 1; for out; do [ "$last" = -o ] && echo > "$out"; last=$out; done')
    with ThreadPoolExecutor(3) as threads:
        # A lock is of an open file, so threads stand for processes.
        found = list(threads.map(lambda _: native._built([str(slow)], folder, time.monotonic() + 60), range(3)))
    assert len(set(found)) == 1
    assert (tmp_path / "builds").read_text().count("\n") == 1


def test_a_build_that_takes_long_is_given_up_with_all_its_processes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_BUILD_S", 1.0)
    monkeypatch.setenv("CC", str(_compiler(tmp_path, "sleep 600 & wait")))
    with capture_logs() as logs:
        assert native.kernels() is None
    begun, given_up = logs
    assert "being built" in begun["event"]
    assert "computed by torch" in given_up["event"]
    assert "was not done after 1 s" in given_up["error"]
    assert not _living(int((tmp_path / "builds").read_text()))
    assert list(folder.iterdir()) == []


def test_who_waits_for_the_build_of_another_process_waits_no_longer_than_for_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_BUILD_S", 1.0)
    monkeypatch.setenv("CC", str(_compiler(tmp_path, "exit 1")))
    folder.mkdir(parents=True, mode=0o700)
    with native._only_one(folder, time.monotonic()), capture_logs() as logs:
        assert native.kernels() is None
    [given_up] = logs
    assert "another process builds them" in given_up["error"]
    assert not (tmp_path / "builds").exists()


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_is_not_used(folder: Path, mode: int) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert native.kernels() is None
    assert list(folder.iterdir()) == []


@needs_compiler
def test_a_folder_behind_a_link_is_not_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "elsewhere")
    assert native.kernels() is None


@pytest.mark.parametrize(("name", "value"), [("CC", "no-such-compiler -O2"), ("CC", "false"), ("GUIDEWAY_NATIVE", "0")])
def test_without_them_torch_computes(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setenv(name, value)
    assert native.kernels() is None
    assert fastest_backend(tiny("llama", tokenizer)) is TorchBackend


@needs_compiler
def test_the_compiler_may_have_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -g")
    assert native.kernels() is not None


def _compiler(folder: Path, does: str) -> Path:
    """A compiler that writes the id of its process into `folder`, and then does this."""
    program = folder / "slow-cc"
    program.write_text(f"#!/bin/sh\necho $$ >> {folder}/builds\n{does}\n")
    program.chmod(0o755)
    return program


def _living(group: int) -> list[str]:
    """The processes of a group that have not ended, as the system tells of them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of, *_ = file.read_text().rpartition(")")[2].split()
            if int(of) == group and state not in "ZX":
                found.append(file.read_text())
    return found
