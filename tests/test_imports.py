"""Imports go one way, and torch is reachable from the workers and the studio only."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests import rooms
from tests.rooms import ROOT, imported_rooms, modules

ALLOWED = {
    "schemas": set[str](),
    "delivery": {"schemas"},
    "catalogue": {"schemas", "delivery"},
    "producers": {"schemas", "delivery", "catalogue"},
    "workers": {"schemas", "delivery", "catalogue"},
    "infra": {"schemas", "delivery"},
    "training": {"schemas", "catalogue", "delivery", "workers"},
}
USECASES_MAY = {*ALLOWED, rooms.USECASES, "settings", "printable", "logs", "config"}
"""Of `guideway`: neither the command line nor what prints."""
HAVE_LOGS = {"workers/engine_process.py", "workers/retrieval/process.py", "workers/processes/child_main.py"}
"""The mains of child processes."""
PRINTING = {"typer", "rich", "click"}
WITHOUT_TORCH = ("schemas", "delivery", "catalogue", "producers", "infra")


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_of_its_row(room: str) -> None:
    assert modules(room)
    wrong = {str(path.relative_to(ROOT)): imported_rooms(path) - ALLOWED[room] - {room} for path in modules(room)}
    assert not {path: more for path, more in wrong.items() if more}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_nothing_of_the_program(room: str) -> None:
    """A process of its own sets up its own logs; nothing else in a room asks for settings, terminals or logs."""
    for path in modules(room):
        parts = [name.split(".") for name in rooms.imported(path)]
        ours = {part[1] for part in parts if part[0] == "guideway" and len(part) > 1} - {*ALLOWED}
        assert ours <= ({"logs"} if str(path.relative_to(ROOT)) in HAVE_LOGS else set()), path


def test_use_cases_know_nothing_of_the_command_line() -> None:
    assert modules(rooms.USECASES)
    for path in modules(rooms.USECASES):
        parts = [name.split(".") for name in rooms.imported(path)]
        ours = {part[1] for part in parts if part[0] == "guideway" and len(part) > 1}
        assert not ours - USECASES_MAY, path
        assert not {part[0] for part in parts} & PRINTING, path


def test_use_cases_are_called_by_the_command_line_only() -> None:
    top = rooms.folder(rooms.PROGRAM)
    callers = [path for path in modules(rooms.PROGRAM) if rooms.USECASES in imported_rooms(path)]
    assert {path.relative_to(top).parts[0] for path in callers} == {"cli"}


def test_torch_is_unreachable_from_producers() -> None:
    """In a fresh interpreter: everything in these rooms and the command line is imported, and torch is not there."""
    names = [
        "guideway." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in WITHOUT_TORCH
        for path in modules(room)
        if path.name != "__main__.py"
    ]
    package = ROOT / "src"
    usecases = [".".join(path.relative_to(package).with_suffix("").parts) for path in modules(rooms.USECASES)]
    program = (
        "import importlib, sys\n"
        f"for name in {[*names, *usecases, 'guideway.cli']!r}: importlib.import_module(name)\n"
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


def test_the_picture_is_of_these_imports() -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(), "python -m tests.rooms draws it anew"


def test_a_circle_of_imports_has_no_levels() -> None:
    assert rooms.levels({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="circle"):
        rooms.levels({"a": {"b"}, "b": {"c"}, "c": {"b"}})


def test_a_wait_that_is_cancelled_as_it_ends_is_cancelled() -> None:
    """`asyncio.wait_for` of Python 3.11 loses such a cancellation, and its task goes on; `asyncio.timeout` keeps it."""
    every = [path for room in [*ALLOWED, rooms.USECASES, rooms.PROGRAM] for path in modules(room)]
    assert not [str(path) for path in every if "asyncio.wait_for(" in path.read_text(encoding="utf-8")]


def test_nobody_takes_the_cancellation_of_who_calls_for_that_of_a_task() -> None:
    """`await task` raises the caller's own as well, and a loop would go on. `asyncio.gather` tells them apart."""
    every = [path for room in [*ALLOWED, rooms.USECASES, rooms.PROGRAM] for path in modules(room)]
    swallows = re.compile(r"suppress\([^)]*CancelledError")
    assert not [str(path) for path in every if swallows.search(path.read_text(encoding="utf-8"))]
