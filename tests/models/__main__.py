"""Writes docs/models.md: `python -m tests.models`, some minutes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.models.families import FAMILIES
from tests.models.table import PAGE, line, page

if __name__ == "__main__":
    lines = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(line(family, Path(folder)))
        print(lines[-1], flush=True)
    PAGE.write_text(page(lines), "utf-8")
