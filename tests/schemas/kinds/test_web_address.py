"""What is an address in the web, and what two programs could read differently."""

from __future__ import annotations

import pytest

from guideway.schemas.kinds.web_address import WebAddress, host_of, web_address


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://hooks.example.com", WebAddress("https", "hooks.example.com", 443, "/")),
        ("https://Hooks.Example.COM:8443/a/b?c=d%20e", WebAddress("https", "hooks.example.com", 8443, "/a/b?c=d%20e")),
        ("http://127.0.0.1:8080/in", WebAddress("http", "127.0.0.1", 8080, "/in")),
        ("https://[2001:DB8::1]:444/?x", WebAddress("https", "2001:db8::1", 444, "/?x")),
        ("https://xn--mnchen-3ya.example/", WebAddress("https", "xn--mnchen-3ya.example", 443, "/")),
    ],
)
def test_an_address_is_taken_apart(url: str, found: WebAddress) -> None:
    assert web_address(url) == found


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.com", "begins with https://"),
        ("HTTPS://example.com", "begins with https://"),
        ("//example.com", "begins with https://"),
        ("https://user:pw@example.com/", "user or a password"),
        ("https://example.com@evil.example/", "user or a password"),
        ("https://example.com/#a", "fragment"),
        ("https://example.com\\@evil.example/", "character"),
        ("https://exa mple.com/", "character"),
        ("https://example.com/\r\nHost: x", "character"),
        ("https://ｅxample.com/", "xn--"),
        ("https://example。com/", "xn--"),
        ("https://example.com:0/", "no port"),
        ("https://example.com:65536/", "no port"),
        ("https://example.com:/", "no port"),
        ("https://example.com:+80/", "no port"),
        ("https:///path", "no host"),
        ("https://.example.com/", "no host"),
        ("https://example.com./", "no host"),
        ("https://ex_ample.com/", "no host"),
        ("https://-a.example/", "no host"),
        ("https://2130706433/", "ends in a number"),
        ("https://0x7f.0.0.1/", "ends in a number"),
        ("https://0177.0.0.1/", "ends in a number"),
        ("https://127.1/", "ends in a number"),
        ("https://0x7f000001/", "ends in a number"),
        ("https://256.1.1.1/", "ends in a number"),
        ("https://[::1/", "brackets"),
        ("https://[fe80::1%25eth0]/", "brackets"),
        ("https://[::1]x/", "brackets"),
        ("https://" + "a" * 64 + ".example/", "no host"),
        ("https://example.com/" + "a" * 2000, "characters"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        web_address(url)


def test_the_header_host_names_a_port_only_where_it_is_another() -> None:
    assert web_address("https://a.example/").authority == "a.example"
    assert web_address("https://a.example:443/").authority == "a.example"
    assert web_address("https://a.example:80/").authority == "a.example:80"
    assert web_address("http://[::1]:8080/").authority == "[::1]:8080"


def test_a_host_is_compared_in_small_letters() -> None:
    assert host_of("EXAMPLE.com") == "example.com"
    assert host_of("0:0::1") == "::1"
