"""The demo's data files, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guideway.training.demo_recipes import Task


def read(data: Path, task: Task, split: str) -> list[dict[str, Any]]:
    """The rows of `DATA.SPLIT.jsonl`, which are named in examples/data/README.md."""
    # Not `splitlines`: some texts hold U+0085, which it takes for the end of a line.
    with (data / f"{task.data}.{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
