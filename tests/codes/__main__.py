"""Writes docs/codes.md: `python -m tests.codes`, about a minute."""

from __future__ import annotations

import asyncio

from tests.codes.page import PAGE, line, page, provoked

if __name__ == "__main__":
    lines = [line(case, came) for case, came in asyncio.run(provoked())]
    PAGE.write_text(page(lines), "utf-8")
    print(f"{len(lines)} failures provoked; written to {PAGE.name}")
