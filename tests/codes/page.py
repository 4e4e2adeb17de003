"""docs/codes.md: every failure code, what provokes it, the message that came, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import yaml
from tests.codes.case import Case, steady
from tests.codes.end_to_end import end_to_end_of
from tests.codes.events import ENDPOINTS, EVENTS, PLAIN
from tests.codes.others import OTHERS

from guideway.schemas.failures import FailureCode, Refusal

PAGE: Final = Path(__file__).parents[2] / "docs" / "codes.md"
CASES: Final = sorted([*EVENTS, *OTHERS], key=lambda case: [*FailureCode].index(case.code))

_HEAD: Final = """# Failure codes, provoked

Every way in which a request, an event or a command can fail, with an example that makes it fail, the message that came,
and what to do. The tests do each of them again and compare; `make codes` writes this page. What a code means, and
whether it is worth sending the same event again, says [wire.md](wire.md#failure-codes).

Most examples are events, published on an endpoint's topic, and their message is that of the failed reply. This is
`/shop/parcel`; of the others the example has what matters (without `kind`, `namespace`, `name`, `model_size: small`).
Some manifests are wrong on purpose: `apply` refuses them, and they were put into the catalogue behind its back.

```yaml
{parcel}
```

| code | example | message | what to do |
|---|---|---|---|
"""


class Line(NamedTuple):
    """A row of the table."""

    code: str
    example: str
    message: str
    remedy: str

    @property
    def written(self) -> str:
        return "| " + " | ".join(_cell(one) for one in self) + " |"


def line(case: Case, came: Refusal) -> Line:
    """Of a case that was provoked."""
    return Line(f"`{came.code.value}`", case.example, steady(came.message), case.remedy)


async def provoked() -> list[tuple[Case, Refusal]]:
    """All of them, in the order of the codes; those that an event meets at once."""
    async with end_to_end_of(ENDPOINTS) as e2e:
        came = await asyncio.gather(*(case.provoke(e2e) for case in CASES))
    return [*zip(CASES, came, strict=True)]


def page(lines: Sequence[Line]) -> str:
    assert PLAIN[0] == "parcel"
    fields = {"kind": "endpoint/v1", "namespace": "shop", "name": "parcel", "model_size": "small"}
    manifest = yaml.safe_dump(fields | yaml.safe_load(ENDPOINTS["parcel"]), sort_keys=False)
    head = _HEAD.replace("{parcel}\n", manifest)
    return head + "".join(f"{one.written}\n" for one in lines)


def read_page() -> list[Line]:
    """The lines as they are written; their cells as Markdown has them."""
    rows = [row for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| `")]
    return [Line(*(cell.strip() for cell in row.strip("|").replace(r"\|", "\0").split("|"))) for row in rows]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
