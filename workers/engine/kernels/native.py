"""Kernels in C, built by the machine's own compiler where there is one.

Nothing depends on them: without a compiler, or with `GUIDEWAY_NATIVE=0`, operations of torch compute the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import torch
from transformers import PreTrainedModel

_NAMES: Final = (
    "adapter",
    "attention",
    "choice",
    "layer",
    "layers/decoder",
    "layers/inserted",
    "layers/pages",
    "linears/floating",
    "linears/integer",
)
_SOURCES: Final = [Path(__file__).parent / f"{name}.c" for name in _NAMES]
_HEADERS: Final = [
    Path(__file__).parent / name
    for name in ("kernels.h", "work.h", "layers/one_token.h", "layers/strips.h", "linears/ahead.h", "linears/tiles.h")
]
_FLAGS: Final = ("-O3", "-march=native", "-fopenmp-simd", "-std=gnu11", "-shared", "-fPIC")
DTYPES: Final = (torch.float32, torch.bfloat16)
"""The types that the kernels compute in."""
_BUILD_S: Final = 300.0
"""A free core takes some ten seconds, and a machine that is busy with other things many times as long. An engine has
600 s to start, and still has to load its model."""
_LOOK_S: Final = 0.1
"""How often a process looks whether another one has built."""

log = structlog.get_logger(__name__)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library of all sources, built into the cache folder unless it is there; None where it cannot be."""
    if os.environ.get("GUIDEWAY_NATIVE") == "0":
        return None
    compiler, *options = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if (found := shutil.which(compiler)) is None:
        log.info("no C compiler: all is computed by torch", help="install gcc (9 or later) or clang, or set CC")
        return None
    until = time.monotonic() + _BUILD_S
    try:
        library = _built([found, *options], cache_folder(), until)
        try:
            return _opened(library)
        except OSError:
            # The file is damaged, perhaps because the disk was full.
            library.unlink(missing_ok=True)
            return _opened(_built([found, *options], library.parent, until))
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.decode(errors="replace")[-500:] if isinstance(error, subprocess.CalledProcessError) else ""
        log.error(
            "the C kernels cannot be built: until the next start all is computed by torch, several times as slowly",
            error=repr(error),
            said=said,
            help="mend what the error names, or start again when the machine is less busy",
        )
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
    if (found := _of_torchs_openmp("GOMP_parallel")) is not None:
        return found
    log.info("torch's OpenMP is not GNU's: kernels are used with one thread only")
    return None


@functools.cache
def barrier() -> ctypes.c_void_p | None:
    """`GOMP_barrier` of the same OpenMP: the threads of `parallel` wait there for each other."""
    return _of_torchs_openmp("GOMP_barrier")


def _of_torchs_openmp(name: str) -> ctypes.c_void_p | None:
    try:
        loaded = re.search(r"/\S*libgomp\S*", Path("/proc/self/maps").read_text())
        return ctypes.cast(ctypes.CDLL(loaded[0])[name], ctypes.c_void_p) if loaded else None
    except (OSError, AttributeError):
        return None


def cache_folder() -> Path:
    """The user's cache folder for built kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guideway" / "native"


def _opened(library: Path) -> ctypes.CDLL:
    """The library, whose calls keep the interpreter's lock: they are short, and to get the lock back takes longer."""
    return ctypes.PyDLL(str(library))


def _built(compiler: list[str], folder: Path, until: float) -> Path:
    """The library in `folder`, built if it is missing.

    until: on the monotonic clock; then the build is given up. Raises: OSError or SubprocessError if it cannot be built.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        # Who can write there can have their code run here.
        raise PermissionError(f"{folder} must be a folder that only its owner, the user of this process, can write")
    sources = b"".join(file.read_bytes() for file in [*_HEADERS, *_SOURCES])
    known_by = hashlib.sha256(sources + " ".join([*compiler, *_FLAGS, _processor()]).encode()).hexdigest()
    library = folder / f"{known_by[:20]}.so"
    if not library.is_file():
        # One process builds, and others that begin meanwhile wait for it.
        with _only_one(folder, until), tempfile.TemporaryDirectory(dir=folder) as place:
            if not library.is_file():
                made = Path(place) / library.name
                log.info("the C kernels are being built, once for this machine", compiler=compiler[0])
                _compile([*compiler, *_FLAGS, *map(str, _SOURCES), "-o", str(made), "-lm"], until)
                made.replace(library)
    return library


def _compile(command: list[str], until: float) -> None:
    """Run the compiler. Raises: TimeoutError after `until`; CalledProcessError if it fails."""
    # A group of its own: the compiler's own children compute, and end with it.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0) as process:
        try:
            _, said = process.communicate(timeout=max(0.0, until - time.monotonic()))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"{command[0]} was not done after {_BUILD_S:g} s") from None
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


@contextlib.contextmanager
def _only_one(folder: Path, until: float) -> Iterator[None]:
    """A context in which one process is at a time. A folder on a disk without locks lets all in.

    Raises: TimeoutError if another process is there still at `until`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        while not _locks(handle):
            if time.monotonic() >= until:
                raise TimeoutError(f"another process builds them, and was not done after {_BUILD_S:g} s")
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(handle)


def _locks(handle: int) -> bool:
    """Lock an open folder; False while another process has it locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _processor() -> str:
    """The processor, which `-march=native` builds for: machines of several kinds may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return f"{platform.machine()} {platform.processor()} {sorted(set(told))}"
