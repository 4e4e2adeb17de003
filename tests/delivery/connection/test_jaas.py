"""Lines of `sasl.jaas.config`, as Java reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.connection.jaas import Malformed, read_jaas

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("username=\"shop\" password='hush'", {"username": "shop", "password": "hush"}),
        (r'password="a\"b\\c;d=e"', {"password": r'a"b\c;d=e'}),
        (r'password="\101\t"', {"password": "A\t"}),
        ("username=shop-1.x", {"username": "shop-1.x"}),
        ('// none\n  username = "a" /* "b" */', {"username": "a"}),
        ('endpoint="https://idp/token"', {"endpoint": "https://idp/token"}),
        ("", {}),
    ],
)
def test_options(options: str, found: dict[str, str]) -> None:
    module, read = read_jaas(f"{SCRAM} required {options};")
    assert (module, dict(read)) == ("ScramLoginModule", found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hush",
        f'{SCRAM} required username="hush"',
        f"{SCRAM} required password=hush",
        f'{SCRAM} required password="hush;',
        f"{SCRAM} required password=;",
        f'{SCRAM} username="hush" required;',
        f'{SCRAM} required a="hush" a="hush2";',
        f'{SCRAM} required a="hush"; {SCRAM} required;',
    ],
)
def test_what_is_malformed_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_jaas(text)
    assert "hush" not in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_password_can_be_quoted(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    assert read_jaas(f'{SCRAM} required password="{quoted}";').options == {"password": password}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_jaas(text)
    except Malformed:
        return
