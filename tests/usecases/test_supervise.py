"""A supervisor: until when its child may live, with literal times; and its child at the end, as a process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from guideway.usecases.supervise import EXIT_UNAVAILABLE, Stopping


@pytest.mark.parametrize(
    ("signals", "ends_at", "code"),
    [
        ([], float("inf"), 0),
        ([(10, SIGTERM)], 70, 0),
        ([(10, SIGTERM), (20, SIGTERM)], 70, 0),
        ([(10, SIGINT)], 15.0, 130),
        ([(10, SIGTERM), (20, SIGINT)], 25.0, 130),
        ([(10, SIGINT), (11, SIGINT)], 11.3, 130),
        ([(10, SIGINT), (11, SIGINT), (12, SIGINT)], 11.3, 130),
    ],
)
def test_a_child_has_its_time_to_end_by_how_it_was_asked(
    signals: list[tuple[float, int]], ends_at: float, code: int
) -> None:
    stopping = Stopping(patience_s=60, hurry_s=3)
    for now, number in signals:
        stopping.add(number, now)
    assert stopping.is_asked == bool(signals)
    assert stopping.ends_at == pytest.approx(ends_at)
    assert stopping.exit_code == code


def test_a_service_that_the_cluster_does_not_let_work_is_started_again(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import pathlib, sys\n"
        "tries = pathlib.Path('tries')\n"
        "done = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (done + 1))\n"
        f"sys.exit({EXIT_UNAVAILABLE} if done == 0 else 1)\n"
    )
    program = (
        "import sys\n"
        "from guideway.usecases.supervise import supervise\n"
        f"sys.exit(supervise([sys.executable, {str(child)!r}], hurry_s=3))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (tmp_path / "tries").read_text() == "xx"


def test_a_supervised_process_has_its_time_to_end(tmp_path: Path) -> None:
    """SIGTERM is passed on, and what takes the child two seconds is not cut short."""
    child = tmp_path / "guideway.py"
    child.write_text(
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n"
        "    time.sleep(2); pathlib.Path('ended').write_text('x'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('ready').write_text('x')\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys\n"
        "from guideway.usecases.supervise import supervise\n"
        f"sys.exit(supervise([sys.executable, {str(child)!r}], hurry_s=3))\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    supervisor.terminate()
    assert supervisor.wait(20) == 0
    assert (tmp_path / "ended").exists()
