"""API keys: made, hashed, compared. Pure.

A key is `gwk_ID_SECRET`. The secret has 256 random bits, so a fast hash is enough: nobody can try them all.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from typing import Final

from guideway.producers.gateway.identity.caller import Caller, unauthenticated
from guideway.schemas.services.keys import KEY_ID, Key

PREFIX: Final = "gwk_"
_FORM: Final = re.compile(rf"{PREFIX}({KEY_ID.pattern})_([A-Za-z0-9_-]{{43}})")
_NOBODY: Final = "0" * 64


def new_key(
    namespace: str, *, now_ms: int, name: str = "", expires_ms: int | None = None, number: str | None = None
) -> tuple[Key, str]:
    """The key to keep, and the text to give to its owner, which is kept nowhere. number: for tests."""
    key_id = number or secrets.token_hex(8)
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    made = Key(
        id=key_id,
        namespace=namespace,
        hash=hashed(key_id, secret),
        made_ms=now_ms,
        name=name,
        expires_ms=expires_ms,
    )
    return made, f"{PREFIX}{key_id}_{secret}"


def hashed(key_id: str, secret: str) -> str:
    """BLAKE2b of the secret, keyed with the id, so that a hash is of no use under another id."""
    return hashlib.blake2b(secret.encode(), key=key_id.encode(), digest_size=32).hexdigest()


class Keys:
    """All keys, by id: what the topic says, folded."""

    def __init__(self) -> None:
        self._by_id: dict[str, Key] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_id.values())

    def take(self, key_id: str, key: Key | None) -> None:
        """The next record. None: the key was removed."""
        if key is None or key.id != key_id:
            self._by_id.pop(key_id, None)
        else:
            self._by_id[key_id] = key

    def clear(self) -> None:
        """The topic was made anew."""
        self._by_id.clear()

    def get(self, key_id: str) -> Key | None:
        """The key with this id."""
        return self._by_id.get(key_id)

    def caller(self, text: str, now_ms: int) -> Caller:
        """Whose key this is. Raises DoorRefusal(unauthenticated), in the same words for every reason but that a key of
        the caller's own has expired."""
        found = _FORM.fullmatch(text)
        key_id, secret = (found[1], found[2]) if found else ("0" * 16, "")
        key = self._by_id.get(key_id)
        # As much work for an id that there is not.
        same = hmac.compare_digest(hashed(key_id, secret), key.hash if key is not None else _NOBODY)
        if key is None or not same or key.revoked_ms is not None:
            raise unauthenticated()
        if key.expires_ms is not None and key.expires_ms <= now_ms:
            raise unauthenticated("this key has expired: ask for another")
        return Caller(key.namespace, f"key {key.id}")
