"""What gateways know of accepted requests follows from the order of their notes alone."""

from __future__ import annotations

import pytest

from guideway.producers.gateway.call import Call, id_of, made_ms, new_id
from guideway.producers.gateway.known import LEASE_S, Entry, Known, Place, is_over, replaceable
from guideway.schemas.services.accepted import KEPT_S, Claim, Published

DAY_MS = KEPT_S * 1000


def claim(id_: str, correlation: str, *, at_ms: int = 0, after: str | None = None) -> Claim:
    return Claim(id=id_, at_ms=at_ms, address="/a/b", fingerprint="f", correlation=correlation, after=after)


def correlation_of(known: Known, id_: str, namespace: str = "a") -> str | None:
    found = known.find(namespace, id_)
    return None if found is None else found[0].claim.correlation


def test_of_two_claims_the_first_counts() -> None:
    known = Known()
    known.take("a", claim("1", "x"), 0.0)
    known.take("a", claim("1", "y"), 0.0)
    assert correlation_of(known, "1") == "x"
    assert correlation_of(known, "1", namespace="b") is None


def test_a_claim_that_names_the_one_before_takes_its_place_once() -> None:
    known = Known()
    known.take("a", claim("1", "x"), 0.0)
    known.replied("a", "x", Place(0, 5, final=False))
    known.take("a", claim("1", "y", after="x"), 0.0)
    known.take("a", claim("1", "z", after="x"), 0.0)
    known.take("a", claim("1", "y", after="x"), 0.0)
    assert known.find("a", "1") == (Entry(claim("1", "y", after="x"), 0.0), None)


def test_a_reply_may_be_read_before_its_claim_and_the_first_counts() -> None:
    known = Known()
    known.replied("a", "x", Place(0, 5, final=True))
    known.replied("a", "x", Place(0, 9, final=True))
    known.take("a", claim("1", "x"), 0.0)
    known.take("a", Published(id="1", at_ms=1, correlation="x"), 0.0)
    known.take("a", Published(id="1", at_ms=1, correlation="other"), 0.0)
    assert known.find("a", "1") == (Entry(claim("1", "x"), 0.0, published=True), Place(0, 5, final=True))


def test_what_may_be_replaced() -> None:
    entry = Entry(claim("1", "x", at_ms=1000), 50.0)
    assert not replaceable(entry, None, 1000, 50.0 + LEASE_S)
    assert replaceable(entry, None, 1000, 50.1 + LEASE_S)
    assert not replaceable(Entry(entry.claim, 50.0, published=True), None, DAY_MS, 1e6)
    assert not replaceable(entry, Place(0, 0, final=True), DAY_MS, 1e6)
    assert replaceable(entry, Place(0, 0, final=False), 1000, 50.0)


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 3_600_000])
def test_a_claim_counts_as_long_whatever_the_clock_of_its_gateway_says(ahead_ms: int) -> None:
    known, now_ms = Known(), 10**12
    known.take("a", claim("1", "x", at_ms=now_ms + ahead_ms), 50.0)
    found = known.find("a", "1")
    assert found is not None
    assert not replaceable(*found, now_ms, 50.0 + LEASE_S)
    assert replaceable(*found, now_ms, 50.1 + LEASE_S)


def test_after_a_day_an_id_may_name_another_request() -> None:
    entry = Entry(claim("1", "x", at_ms=1000), 0.0, published=True)
    assert not is_over(entry, 1000 + DAY_MS)
    assert replaceable(entry, None, 1001 + DAY_MS, 0.0)
    assert replaceable(entry, Place(0, 0, final=True), 1001 + DAY_MS, 0.0)


def test_a_namespace_that_accepts_without_end_pushes_out_its_own() -> None:
    known = Known(limit=10)
    known.take("small", claim("kept", "k"), 0.0)
    for number in range(50):
        known.take("large", claim(str(number), f"c{number}"), 0.0)
    assert len(known) == 10
    assert known.pushed_out == 41
    assert correlation_of(known, "kept", "small") == "k"
    assert correlation_of(known, "49", "large") == "c49"
    assert correlation_of(known, "0", "large") is None


def test_replies_of_requests_that_are_not_known_are_bounded_over_all_namespaces() -> None:
    known = Known(limit=5)
    known.replied("small", "k", Place(0, 0, final=True))
    for number in range(50):
        known.replied("large", f"c{number}", Place(0, number, final=True))
        known.replied("large", f"c{number}", Place(1, 0, final=True))
    assert known.place("small", "k") == Place(0, 0, final=True)
    assert [number for number in range(50) if known.place("large", f"c{number}")] == [*range(41, 50)]
    known.forget_replies("large")
    for number in range(9):
        known.replied("other", f"c{number}", Place(0, number, final=True))
    assert known.place("other", "c0") == Place(0, 0, final=True)


def test_old_requests_are_forgotten() -> None:
    known = Known()
    for number in range(4):
        known.take("a", claim(str(number), f"c{number}", at_ms=number), 0.0)
    known.expire(before_ms=2)
    assert [correlation_of(known, str(number)) for number in range(4)] == [None, None, "c2", "c3"]
    assert len(known) == 2


def test_an_id_of_ours_tells_its_age() -> None:
    ids = {new_id(1_700_000_000_000) for _ in range(100)}
    assert len(ids) == 100
    assert {made_ms(one) for one in ids} == {1_700_000_000_000}
    assert {made_ms(one) for one in ("", "order-17", "f" * 32, "x" * 12 + "7" + "000" + "8" + "0" * 15)} == {None}


def test_an_idempotency_key_gives_one_id_at_each_endpoint() -> None:
    def asked(address: str | None, key: str, content: bytes = b"x") -> Call:
        return Call(namespace="a", address=address, content=content, content_type="text/plain", idempotency_key=key)

    assert id_of(asked("/a/b", "k")) == id_of(asked("/a/b", "k", b"y"))
    assert len({id_of(asked("/a/b", "k")), id_of(asked("/a/c", "k")), id_of(asked(None, "k"))}) == 3
    assert asked("/a/b", "k").fingerprint != asked("/a/b", "k", b"y").fingerprint
    assert asked("/a/b", "k").fingerprint == asked("/a/b", "other").fingerprint
