"""`python -m guideway.reference` writes the reference pages of this checkout."""

from __future__ import annotations

from pathlib import Path

from guideway.reference.pages import write

write(Path(__file__).resolve().parents[3] / "docs")
