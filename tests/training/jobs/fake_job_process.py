"""What a trainer starts for a job, without a model: it behaves as the description of the order's task says.

brief: three events. endless: a step every 50 ms until SIGTERM. bad: a refusal. crash N: killed N times, then as brief.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    order = json.load(sys.stdin)
    assert order["type"] == "carry_out"
    out = Path(order["folder"])
    found = re.fullmatch(r"(\w+) ?(\d*)", order["task"]["description"])
    assert found is not None
    behaviour, number = found[1], int(found[2] or 0)
    out.mkdir(parents=True, exist_ok=True)

    def tell(event: str, **fields: object) -> None:
        with (out / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")

    of = {"size": "small", "method": "lora"}
    if behaviour == "bad":
        tell("run_failed", code="invalid_data", message="row 3: correct it")
        print(json.dumps({"type": "refused", "code": "invalid_data", "message": "row 3: correct it"}))
        return 0
    if behaviour == "endless":

        def cancelled(*_: object) -> None:
            tell("run_cancelled")
            os._exit(130)

        signal.signal(signal.SIGTERM, cancelled)
        for step in range(1, 10_000):
            tell("resumed", step=step, **of)
            time.sleep(0.05)
    tell("resumed", step=1, **of)
    if behaviour == "crash" and len((out / "events.jsonl").read_text().splitlines()) <= number:
        os.kill(os.getpid(), signal.SIGKILL)
    tell("resumed", step=2, **of)
    tell("run_ended")
    refused = {"type": "not_published", "code": "not_better", "message": "it is not better"}
    print(json.dumps(refused if order["publish"] else {"type": "done"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
