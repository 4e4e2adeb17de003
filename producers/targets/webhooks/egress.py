"""Which hosts and addresses in the network may be reached: the platform's list, and nothing private by itself. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.web_address import WebAddress, host_of

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER_PUBLIC: Final[tuple[_Network, ...]] = tuple(
    ipaddress.ip_network(one)
    for one in (
        # What stands for an IPv4 address, perhaps a private one, in the clothes of IPv6; and what is no host's.
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"),
        *("192.88.99.0/24", "0.0.0.0/8", "100.64.0.0/10", "224.0.0.0/4", "240.0.0.0/4", "ff00::/8"),
    )
)
_PORTS: Final = {"https": 443, "http": 80}


class _Rule(msgspec.Struct, frozen=True):
    scheme: str
    host: str
    """`*` for all, `*.NAME` for all below a name."""
    port: int | None
    """None: any."""

    def admits(self, address: WebAddress) -> bool:
        named = self.host in ("*", address.host)
        below = self.host.startswith("*.") and address.host.endswith(self.host[1:])
        return address.scheme == self.scheme and self.port in (None, address.port) and (named or below)


class Egress(msgspec.Struct, frozen=True):
    """The list. An empty one lets nothing out."""

    rules: tuple[_Rule, ...] = ()
    ranges: tuple[_Network, ...] = ()
    """Addresses that may be reached though they are not public."""

    def refusal(self, address: WebAddress) -> str | None:
        """Why this address is not reached; None: it may be, as far as its name says."""
        if any(rule.admits(address) for rule in self.rules):
            return None
        if not self.rules:
            return "the platform lets no webhook out: whoever runs it lists hosts in GUIDEWAY_EGRESS"
        return (
            f"{address.scheme}://{address.authority} is not on the platform's list: ask whoever runs it to add "
            "it to GUIDEWAY_EGRESS"
        )

    def lets_to(self, ip: Ip) -> bool:
        """Whether a connection to this address may be made: it is public, or listed."""
        if any(ip.version == one.version and ip in one for one in self.ranges):
            return True
        hidden = any(ip.version == one.version and ip in one for one in _NEVER_PUBLIC)
        return ip.is_global and not ip.is_multicast and not hidden


def egress_of(text: str) -> Egress:
    """The list of a setting: hosts and ranges of addresses, with commas or spaces between them.

    `hooks.example.com`, `*.example.com`, `host:8443`, `host:*`, `http://host`, `10.1.2.0/24`. An IP address as host
    lists itself. Raises Refusal(invalid_setting).
    """
    rules: list[_Rule] = []
    ranges: list[_Network] = []
    for entry in text.replace(",", " ").split():
        try:
            if "/" in entry and "://" not in entry:
                ranges.append(ipaddress.ip_network(entry))
                continue
            rule = _rule(entry)
        except ValueError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"GUIDEWAY_EGRESS has {entry[:80]!r}, which is no host and no range ({error}): write "
                "hooks.example.com, *.example.com, host:8443, http://host or 10.1.2.0/24",
            ) from None
        rules.append(rule)
        with contextlib.suppress(ValueError):  # a name
            ranges.append(ipaddress.ip_network(rule.host))
    return Egress(tuple(rules), tuple(ranges))


def _rule(entry: str) -> _Rule:
    scheme, separator, rest = entry.partition("://")
    if not separator:
        scheme, rest = "https", entry
    if scheme not in _PORTS:
        raise ValueError("its scheme is not https or http")
    host, port = rest, ""
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    number = None if port == "*" else _PORTS[scheme] if not port else int(port)
    if number is not None and not 0 < number < 65536:
        raise ValueError("no such port")
    if host == "*":
        return _Rule(scheme, "*", number)
    below = host.startswith("*.")
    name = host_of(host[2:] if below else host)
    return _Rule(scheme, f"*.{name}" if below else name, number)
