"""Kernels in C, built by the machine's own compiler where there is one.

Nothing depends on them: without a compiler, or with `GUIDEWAY_NATIVE=0`, operations of torch compute the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import torch
from transformers import PreTrainedModel

_SOURCES: Final = [Path(__file__).with_name(name) for name in ("adapter.c", "layer.c")]
_HEADER: Final = Path(__file__).with_name("kernels.h")
_FLAGS: Final = ("-O3", "-march=native", "-fopenmp-simd", "-std=gnu11", "-shared", "-fPIC")
DTYPES: Final = (torch.float32, torch.bfloat16)
"""The types that the kernels compute in."""
_BUILD_S: Final = 120

log = structlog.get_logger(__name__)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library of both sources, built into the cache folder unless it is there; None where it cannot be."""
    if os.environ.get("GUIDEWAY_NATIVE") == "0":
        return None
    compiler, *options = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if (found := shutil.which(compiler)) is None:
        log.info("no C compiler: all is computed by torch", help="install gcc (9 or later) or clang, or set CC")
        return None
    try:
        library = _built([found, *options], cache_folder())
        try:
            return _opened(library)
        except OSError:
            # The file is damaged, perhaps because the disk was full.
            library.unlink()
            return _opened(_built([found, *options], library.parent))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the C kernels cannot be built: all is computed by torch", error=repr(error))
        return None


def declare(kernels: ctypes.CDLL, arguments: Mapping[str, list[Any]]) -> None:
    """Declare the arguments of the functions with these names, so that calls need not wrap numbers."""
    for name, types in arguments.items():
        getattr(kernels, name).argtypes = types


def kernels_for(model: PreTrainedModel) -> ctypes.CDLL | None:
    """The kernels, if they can compute for `model` in as many threads as torch has; else None."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype not in DTYPES:
        return None
    if parallel() is None and torch.get_num_threads() > 1:
        return None
    return kernels()


@functools.cache
def parallel() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP that torch has loaded, so that there is one pool of threads; None: not GNU's."""
    try:
        loaded = re.search(r"/\S*libgomp\S*", Path("/proc/self/maps").read_text())
        if loaded:
            return ctypes.cast(ctypes.CDLL(loaded[0]).GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):
        pass
    log.info("torch's OpenMP is not GNU's: kernels are used with one thread only")
    return None


def cache_folder() -> Path:
    """The user's cache folder for built kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guideway" / "native"


def _opened(library: Path) -> ctypes.CDLL:
    """The library, whose calls keep the interpreter's lock: they are short, and to get the lock back takes longer."""
    return ctypes.PyDLL(str(library))


def _built(compiler: list[str], folder: Path) -> Path:
    """The library in `folder`, built if it is missing. Raises: OSError or SubprocessError if it cannot be built."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        # Who can write there can have their code run here.
        raise PermissionError(f"{folder} must be a folder that only its owner, the user of this process, can write")
    sources = b"".join(file.read_bytes() for file in [_HEADER, *_SOURCES])
    known_by = hashlib.sha256(sources + " ".join([*compiler, *_FLAGS, _processor()]).encode()).hexdigest()
    library = folder / f"{known_by[:20]}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / library.name
            command = [*compiler, *_FLAGS, *map(str, _SOURCES), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=_BUILD_S)
            made.replace(library)
    return library


def _processor() -> str:
    """The processor, which `-march=native` builds for: machines of several kinds may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return f"{platform.machine()} {platform.processor()} {sorted(set(told))}"
