"""Kernels in C, built by the machine's own compiler where there is one.

Nothing needs them: without a compiler, or with `GUIDEWAY_NATIVE=0`, operations of torch compute the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import structlog
import torch

_SOURCE: Final = Path(__file__).with_name("row_changes.c")
_FLAGS: Final = ("-O3", "-march=native", "-fopenmp-simd", "-std=gnu11", "-shared", "-fPIC")
_BUILD_S: Final = 120

log = structlog.get_logger(__name__)


@functools.cache
def kernels(cache: Path) -> ctypes.CDLL | None:
    """The library of `row_changes.c`, built into the folder `cache` unless it is there; None where it cannot be."""
    if os.environ.get("GUIDEWAY_NATIVE") == "0":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        log.info("no C compiler: adaptors are computed by torch", help="install gcc or clang, or set CC")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, cache)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the C kernels cannot be built: adaptors are computed by torch", error=repr(error))
        return None


@functools.cache
def parallel() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP that torch brings, so that there is one pool of threads; None: one thread."""
    inside = Path(torch.__file__).parent
    for place in (inside / "lib", inside.parent / "torch.libs"):
        for library in sorted(place.glob("libgomp*.so*")):
            return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p)
    return None


def _built(compiler: str, cache: Path) -> Path:
    known_by = hashlib.sha256(_SOURCE.read_bytes() + " ".join([compiler, *_FLAGS, _processor()]).encode()).hexdigest()
    library = cache / "native" / f"{known_by[:20]}.so"
    if library.is_file() and library.stat().st_uid == os.getuid():
        return library
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(made)]
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
