"""Kernels in C, built by the machine's own compiler where there is one.

Nothing needs them: without a compiler, or with `GUIDEWAY_NATIVE=0`, operations of torch compute the same.
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
"""Of what the kernels compute."""
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
            # Damaged, perhaps by a full disk.
            library.unlink()
            return _opened(_built([found, *options], library.parent))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the C kernels cannot be built: all is computed by torch", error=repr(error))
        return None


def declare(kernels: ctypes.CDLL, arguments: Mapping[str, list[Any]]) -> None:
    """Say what the functions of these names take, so that numbers need not be wrapped at every call."""
    for name, types in arguments.items():
        getattr(kernels, name).argtypes = types


def kernels_for(model: PreTrainedModel) -> ctypes.CDLL | None:
    """The kernels if they compute what `model` computes, and in as many threads as torch has."""
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
    """Where the user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guideway" / "native"


def _opened(library: Path) -> ctypes.CDLL:
    """Calls keep the interpreter's lock: they are short, and whoever lets go of it has to wait for other threads."""
    return ctypes.PyDLL(str(library))


def _built(compiler: list[str], folder: Path) -> Path:
    """Raises OSError or SubprocessError if there is no library in `folder` and none can be built."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        # What lies there is run.
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
    """What `-march=native` depends on: the cache may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return f"{platform.machine()} {platform.processor()} {sorted(set(told))}"
