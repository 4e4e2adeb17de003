"""What is not in the catalogue is told by the name that was given."""

from __future__ import annotations

import pytest

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import Refusal
from guideway.usecases.lookup import found_in, identity_of, split_name


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("namespace", "shop", "no namespace shop: "),
        ("model", "medium", "no model medium: "),
        ("endpoint", "/shop/mood", "no endpoint shop/mood: "),
    ],
)
def test_what_is_not_there_is_told_as_it_was_named(kind: str, name: str, told: str) -> None:
    with pytest.raises(Refusal, match=told):
        found_in(Catalogue(), identity_of(kind, name))


@pytest.mark.parametrize("name", ["Shop/Handbook", "shop/my_set", "handbook"])
def test_a_name_that_is_none_is_told_of_what_names_are_made(name: str) -> None:
    with pytest.raises(Refusal, match="NAMESPACE/NAME, in lower-case letters, digits and hyphens"):
        split_name(name)
