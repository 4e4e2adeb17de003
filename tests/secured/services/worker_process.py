"""`guideway worker` with the telling engine in the place of a model.

python -m tests.secured.services.worker_process SIZE
"""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec

from guideway import logs
from guideway.settings import Settings
from guideway.usecases import serve


async def run(size: str) -> None:
    worker = serve.worker(Settings.from_environ(), size=size)
    program = (sys.executable, "-m", "tests.secured.services.telling_engine")
    worker._settings = msgspec.structs.replace(worker._settings, engine_program=program)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    logs.configure(as_json=True)
    asyncio.run(run(sys.argv[1]))
