"""What programs import from `guideway`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import guideway


@pytest.mark.parametrize("name", guideway.__all__)
def test_an_exported_name_is_there_and_documented(name: str) -> None:
    assert name in dir(guideway)
    one = getattr(guideway, name)
    # A union has no text of its own.
    assert name == "Reply" or one.__doc__


def test_a_name_that_is_not_exported_is_missed_as_everywhere() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Engine'"):
        _ = guideway.Engine


def test_the_package_alone_imports_none_of_its_rooms() -> None:
    program = "import sys, guideway; sys.exit(', '.join(m for m in sys.modules if m.startswith('guideway.')) or 0)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr == ""
