"""An address in the web, taken apart by strict rules: what two programs could read differently is refused. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

MAX_URL_CHARS: Final = 2000
MAX_HOST_CHARS: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]|[\\\"<>^`{}|]")


class WebAddress(msgspec.Struct, frozen=True):
    """Where a request goes."""

    scheme: str
    """`https` or `http`"""
    host: str
    """A name in small letters, or an IP address without brackets."""
    port: int
    path: str
    """Path and query, as they are sent."""

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS: Final = {"https": 443, "http": 80}


def web_address(url: str) -> WebAddress:
    """Raises ValueError, with what to change."""
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"the address has {len(url)} characters, at most {MAX_URL_CHARS} are taken: shorten it")
    if found := _UNSAFE.search(url):
        raise ValueError(
            f"the address has the character {found[0]!r}: write a host in its ASCII form (xn--…), and everything else "
            "that is not ASCII, a space or a quote as %XX"
        )
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise ValueError("an address begins with https:// (in small letters)")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("the address holds a user or a password before an @: leave them out; deliveries are signed")
    if "#" in rest:
        raise ValueError("the address has a fragment (#…), which is never sent: leave it out")
    host, port = _host_and_port(authority, _PORTS[scheme])
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebAddress(scheme, host, port, path)


def host_of(text: str) -> str:
    """A host as it is compared: a name in small letters, or an IP address. Raises ValueError, with what to change."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    host = text.lower()
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            f"{text[:80]!r} is no host: write names of a-z, 0-9 and hyphens with dots between them, or an IP address"
        )
    if _NUMBER.fullmatch(labels[-1]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some programs.
        raise ValueError(f"{text[:80]!r} ends in a number and is no IP address: write one as 192.0.2.1")
    return host


def _host_and_port(authority: str, usual: int) -> tuple[str, int]:
    if authority.startswith("["):
        inner, bracket, port = authority[1:].partition("]")
        try:
            host = str(ipaddress.IPv6Address(inner)) if bracket and "%" not in inner else ""
        except ValueError:
            host = ""
        if not host or (port and not port.startswith(":")):
            raise ValueError(f"{authority[:80]!r} is no IPv6 address in brackets")
        return host, _port(port[1:], usual) if port else usual
    name, colon, port = authority.partition(":")
    return host_of(name), _port(port, usual) if colon else usual


def _port(text: str, usual: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{text[:20]!r} is no port: write 1 to 65535, or leave it out for {usual}")
    return int(text)
