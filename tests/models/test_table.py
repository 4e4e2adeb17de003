"""docs/models.md says of every family what its tests say: each line is made anew and compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.models.families import FAMILIES
from tests.models.table import PAGE, Line, line, page

_WRITTEN = {
    found[0].strip("`"): Line(found[0].strip("`"), found[1:])
    for row in PAGE.read_text("utf-8").splitlines()
    if row.startswith("| `") and (found := [cell.strip() for cell in row.strip("|").split("|")])
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_line_of_a_family_is_true(family: str, tmp_path: Path) -> None:
    assert [cell.strip() for cell in line(family, tmp_path).cells] == list(_WRITTEN[family].cells)


def test_the_page_is_made_of_the_lines() -> None:
    assert list(_WRITTEN) == list(FAMILIES)
    assert page(list(_WRITTEN.values())) == PAGE.read_text("utf-8"), "run `make models`"
