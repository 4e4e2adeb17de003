"""Parts of guideway that are installed only where they are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from guideway import logs
from guideway.schemas.failures import FailureCode, Refusal


@contextlib.contextmanager
def importing(extra: str) -> Iterator[None]:
    """Around imports that need an extra of guideway's. Raises: Refusal `invalid_setting` where it is not installed."""
    try:
        yield
        logs.adopt_libraries()
    except ImportError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{error.name} is not installed: pip install 'guideway[{extra}]'"
        ) from None
