"""The version of the code that trains. It is kept with what it makes, so that runs of different code are known."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import guideway

_ROOT = Path(guideway.__file__).parent
CARRIES_OUT = "guideway.training.runs.run"
DECIDE_NOTHING = (
    "guideway.catalogue.artefacts.cache",
    "guideway.catalogue.topic",
    "guideway.training.evaluation.report",
    "guideway.training.runs.code_version",
    "guideway.training.runs.events",
    "guideway.workers.answers",
    "guideway.workers.guidance.artefact_fetch",
    "guideway.workers.processes.child_client",
)
"""Modules that a run imports and that do not decide its result: they report, keep or transport it."""


@cache
def code_version() -> str:
    """guideway's version, and a hash of the code that carries out a run.

    Two runs with the same code version on the same rows do the same. It does not depend on file names, comments,
    docstrings and layout. It may depend on the minor version of Python.
    """
    digests = sorted(_digest(path) for path in sources())
    return f"{guideway.__version__}+{hashlib.sha256(b''.join(digests)).hexdigest()[:12]}"


def sources() -> list[Path]:
    """All files that `CARRIES_OUT` imports, directly or indirectly, except `DECIDE_NOTHING`.

    The kernels in C beside them are included.
    """
    found: set[Path] = set()
    waiting = [CARRIES_OUT]
    while waiting:
        module = waiting.pop()
        path = None if module in DECIDE_NOTHING else _path(module)
        if path is not None and path not in found:
            found.add(path)
            waiting += _imports(path)
    kernels = {kernel for folder in {path.parent for path in found} for kernel in folder.glob("*.c")}
    return sorted(found | kernels)


def _path(module: str) -> Path | None:
    """The module's file; None if it is not guideway's, or is a name inside a module."""
    package, *parts = module.split(".")
    if package != "guideway" or not parts:
        return None
    path = _ROOT.joinpath(*parts)
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Import():
                names += [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names


def _digest(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".py":
        content = ast.dump(_Plain().visit(ast.parse(content))).encode()
    return hashlib.sha256(content).digest()


class _Plain(ast.NodeTransformer):
    """Removes imports and docstrings, so that only what computes is left."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node
