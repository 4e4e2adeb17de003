"""`guideway shadows` in a process that dies at the worst moments: `python -m tests.kafka.shadow_process WHEN`.

WHEN: `before`, when the candidate is about to take the endpoint's place, and that is said; `behind`, when it has taken
it and nothing is said of it yet; `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any
from unittest import mock

from guideway import logs
from guideway.settings import Settings
from guideway.usecases.apply import apply_made
from guideway.usecases.shadows import ending
from guideway.usecases.shadows.service import ShadowService


def die() -> None:
    """As nobody can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(when: str) -> None:
    """Run it."""

    async def deadly(*given: Any, **named: Any) -> Any:
        if when == "before":
            die()
        found = await apply_made(*given, **named)
        if when == "behind":
            die()
        return found

    mock.patch.object(ending, "apply_made", deadly).start()
    logs.configure()

    async def work() -> None:
        service = ShadowService(Settings.from_environ(), in_flight=32, look_s=0.2)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop)
        await service.run()

    asyncio.run(work())


if __name__ == "__main__":
    main(sys.argv[1])
