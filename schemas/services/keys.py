"""Whoever runs the cluster → every gateway: keys with which callers log in, hashed."""

from __future__ import annotations

import re
from typing import Final

import msgspec

KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
"""The form of a key's id."""


class Key(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.key.v1",
):
    """A key; its secret is known to its owner alone."""

    id: str
    namespace: str
    """Whoever has the key calls as this namespace."""
    hash: str
    """Of the secret, in hexadecimal digits."""
    made_ms: int
    """Unix time in milliseconds, as the following two."""
    name: str = ""
    """What people call it."""
    expires_ms: int | None = None
    revoked_ms: int | None = None
