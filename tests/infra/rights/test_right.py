"""Rights: which others include, and who can be given any."""

from __future__ import annotations

import pytest

from guideway.infra.rights.right import Right, missing, require_principal
from guideway.schemas.failures import Refusal

READ = Right("User:t1", "topic", "literal", "gw.t1.orders.in.v1", "read")


@pytest.mark.parametrize(
    "held",
    [
        READ,
        Right("User:t1", "topic", "literal", "gw.t1.orders.in.v1", "all"),
        Right("User:t1", "topic", "prefix", "gw.t1.", "read"),
        Right("User:t1", "topic", "literal", "*", "all"),
    ],
)
def test_a_right_that_others_include_is_not_missing(held: Right) -> None:
    assert missing([READ], [held]) == []


@pytest.mark.parametrize(
    "held",
    [
        Right("User:t10", "topic", "literal", "gw.t1.orders.in.v1", "read"),
        Right("User:t1", "topic", "literal", "gw.t10.orders.in.v1", "read"),
        Right("User:t1", "topic", "literal", "gw.t1.", "read"),
        Right("User:t1", "group", "prefix", "gw.t1.", "read"),
        Right("User:t1", "topic", "literal", "gw.t1.orders.in.v1", "write"),
    ],
)
def test_a_right_of_another_principal_name_kind_or_operation_does_not_count(held: Right) -> None:
    assert missing([READ], [held]) == [READ]


def test_who_may_read_or_write_may_describe() -> None:
    describe = Right("User:t1", "topic", "literal", "gw.t1.orders.in.v1", "describe")
    assert missing([describe], [READ]) == []
    assert missing([READ], [describe]) == [READ]


def test_a_literal_right_includes_none_on_what_begins_so() -> None:
    wide = Right("User:t1", "group", "prefix", "t1.", "read")
    assert missing([wide], [Right("User:t1", "group", "literal", "t1.", "read")]) == [wide]


@pytest.mark.parametrize("name", ["User:shop", "User:CN=shop,OU=Sales,O=A B", "User:größe", "User:a@b.example"])
def test_principals(name: str) -> None:
    assert require_principal(name) == name


@pytest.mark.parametrize(
    "name", ["shop", "User:", "User:*", "User: shop", "user:shop", "Group:shop", "User:a\nUser:b", "User:a ", ""]
)
def test_what_is_no_principal_is_refused_with_how_to_write_it(name: str) -> None:
    with pytest.raises(Refusal, match="write User:NAME"):
        require_principal(name)
