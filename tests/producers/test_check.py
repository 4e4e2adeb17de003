"""What is said of an endpoint before it is applied."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from guideway.catalogue.entries import Catalogue
from guideway.producers.check import check
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Field, InputRule

HUNDRED = f"`{json.dumps(list(range(100)))}`"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{map(&map(&map(&map(&@, " + ", ".join([HUNDRED + ")"] * 4) + "}", "cost more than one text may"),
        ("{" + "(" * 5000 + "}", "nested too deeply"),
        ("{text", "single '{'"),
    ],
)
def test_a_template_that_no_event_can_be_rendered_by_is_refused(
    template: str, says: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    with pytest.raises(Refusal) as caught:
        check([make_endpoint(input=InputRule(template=template))], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert says in caught.value.message
    assert "/team/task" in caught.value.message


def test_a_template_whose_functions_want_values_is_accepted(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields={"tags": Field(type="array")}, template="{join(', ', tags)}", text_field=None)
    check([make_endpoint(input=rule)], catalogue)
