"""docs/codes.md is true: every failure code is provoked, with the code and the message that the page has."""

from __future__ import annotations

import pytest
from tests.codes.case import likened
from tests.codes.page import PAGE, line, page, provoked, read_page

from guideway.schemas.failures import FailureCode

pytestmark = [pytest.mark.broker, pytest.mark.model, pytest.mark.timeout(400)]


@pytest.mark.filterwarnings("ignore")
async def test_every_code_is_provoked_and_its_message_is_that_of_the_page() -> None:
    came = await provoked()
    assert {case.code for case, _ in came} == set(FailureCode)
    for case, refusal in came:
        assert refusal.code is case.code, f"{case.example}: {refusal}"
        # What, and then what to do.
        assert ":" in refusal.message or ";" in refusal.message, refusal.message
    lines = [line(case, refusal) for case, refusal in came]
    written = [likened(one.written) for one in lines]
    assert written == [likened(row) for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| `")]
    assert page(lines).partition("| code |")[0] == PAGE.read_text("utf-8").partition("| code |")[0], "run `make codes`"


def test_the_page_has_every_code() -> None:
    assert {one.code.strip("`") for one in read_page()} == {code.value for code in FailureCode}
