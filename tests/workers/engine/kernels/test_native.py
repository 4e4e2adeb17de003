"""Where the C kernels come from, and when they are not used."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.workers.engine.families import tiny
from transformers import PreTrainedTokenizerFast

from guideway.workers.engine.guidance.batched_adapters import fastest_backend
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.torch_backend import TorchBackend

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
