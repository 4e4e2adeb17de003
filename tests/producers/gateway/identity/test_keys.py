"""API keys: who has one is its namespace, and nobody learns why another is refused."""

from __future__ import annotations

import msgspec
import pytest

from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.identity.identities import Identities
from guideway.producers.gateway.identity.keys import Keys, new_key
from guideway.producers.gateway.status import DoorCode, DoorRefusal

NOW_MS = 1_800_000_000_000


def refusal(keys: Keys, text: str, now_ms: int = NOW_MS) -> str:
    with pytest.raises(DoorRefusal) as raised:
        keys.caller(text, now_ms)
    assert raised.value.code is DoorCode.UNAUTHENTICATED
    return raised.value.message


def test_a_key_is_its_namespace_and_nothing_else_is() -> None:
    keys = Keys()
    (key, text), (other, others) = (new_key(one, now_ms=NOW_MS) for one in ("shop", "shop-b"))
    for one in (key, other):
        keys.take(one.id, one)
    assert keys.caller(text, NOW_MS) == Caller("shop", f"key {key.id}")
    assert keys.caller(others, NOW_MS).namespace == "shop-b"
    secret = text.rpartition("_")[2] if text.count("_") == 2 else text.split("_", 2)[2]
    assert secret not in msgspec.json.encode(key).decode()
    wrong = [
        "", "gwk_", text[:-1], text + "A", text.upper(), f" {text}", f"{text}\n", f"gwk_{other.id}_{secret}",
        f"gwk_{'0' * 16}_{secret}", f"gwk_{key.id}_{'A' * 43}", f"gwk_{key.id}_", "x" * 10_000, "gwk_é_" + secret,
    ]  # fmt: skip
    assert len({refusal(keys, one) for one in wrong}) == 1


def test_a_revoked_key_is_like_none_and_an_expired_one_says_so() -> None:
    keys = Keys()
    key, text = new_key("shop", now_ms=NOW_MS, expires_ms=NOW_MS + 10)
    keys.take(key.id, key)
    assert keys.caller(text, NOW_MS + 9).namespace == "shop"
    assert "expired" in refusal(keys, text, NOW_MS + 10)
    none = refusal(keys, "gwk_x")
    assert refusal(keys, text[:-2] + ("AA" if text[-2:] != "AA" else "BB"), NOW_MS + 10) == none
    keys.take(key.id, msgspec.structs.replace(key, revoked_ms=NOW_MS))
    assert refusal(keys, text) == none
    keys.take(key.id, None)
    assert refusal(keys, text) == none


def test_a_record_under_another_id_counts_for_nothing() -> None:
    keys = Keys()
    key, text = new_key("shop", now_ms=NOW_MS)
    keys.take("f" * 16, key)
    assert refusal(keys, text)
    assert not list(keys)


async def test_headers_name_one_caller_or_nobody() -> None:
    keys = Keys()
    key, text = new_key("shop", now_ms=NOW_MS)
    keys.take(key.id, key)
    identities = Identities(keys, None)
    for shown in ([f"Bearer {text}"], [f"bearer  {text}", f"Bearer {text}"]):
        assert (await identities.caller(shown)).namespace == "shop"
    assert (await identities.caller([], [text])).namespace == "shop"
    for shown, api_key in (
        ([], []),
        ([f"Basic {text}"], []),
        ([text], []),
        (["Bearer "], []),
        ([f"Bearer {text}"], ["x"]),
    ):
        with pytest.raises(DoorRefusal):
            await identities.caller(shown, api_key)


async def test_an_open_gateway_asks_nobody_and_believes_no_wrong_key() -> None:
    identities = Identities(Keys(), None, open_to="shop")
    assert (await identities.caller([])).namespace == "shop"
    assert (await identities.caller(["Bearer sk-anything"])).namespace == "shop"
    with pytest.raises(DoorRefusal):
        await identities.caller([f"Bearer {new_key('other', now_ms=0)[1]}"])
