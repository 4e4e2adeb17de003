"""Imports go one way, and torch is reachable from the workers and the studio only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "schemas": set[str](),
    "delivery": {"schemas"},
    "catalogue": {"schemas", "delivery"},
    "producers": {"schemas", "delivery", "catalogue"},
    "workers": {"schemas", "delivery", "catalogue"},
    "infra": {"schemas"},
    "training": {"schemas", "catalogue", "delivery", "workers"},
}
WITHOUT_TORCH = ("schemas", "delivery", "catalogue", "producers", "infra")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "guideway" and len(part) > 1 and part[1] in ALLOWED}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_before_it(room: str) -> None:
    assert modules(room)
    wrong = {str(path.relative_to(ROOT)): imported_rooms(path) - ALLOWED[room] - {room} for path in modules(room)}
    assert not {path: rooms for path, rooms in wrong.items() if rooms}


def test_torch_is_unreachable_from_producers() -> None:
    """In a fresh interpreter: everything in these rooms and the command line is imported, and torch is not there."""
    names = [
        "guideway." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in WITHOUT_TORCH
        for path in modules(room)
        if path.name != "__main__.py"
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {[*names, 'guideway.cli']!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'llguidance', 'numpy', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'reachable: {sorted(heavy)}' if heavy else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_room_is_linked() -> None:
    for room in ALLOWED:
        link = ROOT / "src" / "guideway" / room
        assert link.is_symlink()
        assert link.resolve() == ROOT / room
