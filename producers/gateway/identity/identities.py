"""Credentials → caller, the same at every door."""

from __future__ import annotations

import time
from collections.abc import Iterable

from guideway.producers.gateway.identity.caller import Caller, unauthenticated
from guideway.producers.gateway.identity.keys import PREFIX, Keys
from guideway.producers.gateway.identity.tokens import Tokens


class Identities:
    """Who calls. keys: None, or tokens: None: such credentials do not count here.

    open_to: without credentials a caller is of this namespace; for a gateway that only its own machine reaches.
    """

    def __init__(self, keys: Keys | None, tokens: Tokens | None, *, open_to: str | None = None) -> None:
        self._keys, self._tokens, self._open_to = keys, tokens, open_to

    async def caller(self, authorization: Iterable[str], api_key: Iterable[str] = ()) -> Caller:
        """authorization, api_key: all values of the headers `authorization` and `x-api-key`.

        Raises DoorRefusal: unauthenticated, busy.
        """
        shown = {_bearer(one) for one in authorization} | {one.strip() for one in api_key}
        if not shown:
            if self._open_to is not None:
                return Caller(self._open_to, "anybody")
            raise unauthenticated("say who calls: send `Authorization: Bearer KEY`")
        if len(shown) > 1:
            raise unauthenticated("there are several keys or tokens: send one")
        text = shown.pop()
        if text.startswith(PREFIX) or self._tokens is None:
            if self._open_to is not None and not text.startswith(PREFIX):
                # Clients that cannot do without a key send anything.
                return Caller(self._open_to, "anybody")
            if self._keys is None:
                raise unauthenticated("keys do not count at this gateway: send a token of its issuer")
            return self._keys.caller(text, time.time_ns() // 1_000_000)
        return await self._tokens.caller(text)


def _bearer(header: str) -> str:
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise unauthenticated("the header authorization is not `Bearer KEY`")
    return text.strip()
