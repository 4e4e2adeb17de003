"""What team A writes into its own catalogue, which no program checks beforehand: it acts on A's own only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml
from tests.secured.services.ground import SECRET, SIZE
from tests.secured.services.world import FINGERPRINT, World, value_of

from .test_on_the_services import CALL, PRIVATE, refusal_of

CATALOGUE: Final = "gw.a.catalogue.v1"
B_PRIVATE: Final = {
    "kind": "endpoint/v1",
    "namespace": "b",
    "name": "private",
    "model_size": SIZE,
    "output": {"type": "text"},
    "instruction": "FORGED",
    "access": ["*"],
}
SHARED_PROMPT: Final = {
    "kind": "guidance/v1",
    "namespace": "b",
    "name": "prompt",
    "form": "text_prompt",
    "text": "FORGED",
    "shared_with": ["*"],
}
FORGED_MODEL: Final = {
    "kind": "model/v1", "namespace": "public", "name": SIZE, "source": "FORGED", "fingerprint": FINGERPRINT
}  # fmt: skip
OF_A: Final = {"kind": "endpoint/v1", "namespace": "a", "model_size": SIZE, "output": {"type": "text"}}

FORGERIES: Final[Mapping[str, list[tuple[str, object]]]] = {
    "B's endpoint, open to all": [("endpoint/b/private@2", B_PRIVATE), ("endpoint/b/private@77", B_PRIVATE)],
    "B's endpoint in the place of the version that is served": [("endpoint/b/private@1", B_PRIVATE)],
    "B's endpoint under a key of A's": [("endpoint/a/own@70", B_PRIVATE)],
    "A's endpoint under B's key": [("endpoint/b/private@78", {**OF_A, "name": "own", "instruction": "FORGED"})],
    "B's endpoint deleted": [("endpoint/b/private@1", None), ("endpoint/b/shared@1", None)],
    "B's endpoint kept as deleted": [("endpoint/b/private@79", {"kind": "deleted/v1"})],
    "B's last version used up": [("endpoint/b/private@999999999", B_PRIVATE)],
    "B's guidance, shared with all": [("guidance/b/prompt@1", SHARED_PROMPT), ("guidance/b/prompt@2", SHARED_PROMPT)],
    "B's router": [
        (
            "router/b/router@1",
            {"kind": "router/v1", "namespace": "b", "name": "router", "rules": [{"when": "true", "to": "/a/own"}]},
        )
    ],
    "an endpoint of public": [
        ("endpoint/public/echo@2", {**B_PRIVATE, "namespace": "public", "name": "echo"}),
        ("endpoint/public/echo@1", None),
    ],
    "the platform's model": [(f"model/public/{SIZE}@2", FORGED_MODEL), (f"model/public/{SIZE}@1", None)],
    "a model of its own": [("model/a/mine@1", {**FORGED_MODEL, "namespace": "a", "name": "mine"})],
    "limits of its own": [
        ("namespace/public/a@1", {"kind": "namespace/v1", "namespace": "public", "name": "a", "weight": 100}),
        ("namespace/a/a@1", {"kind": "namespace/v1", "namespace": "a", "name": "a", "weight": 100}),
    ],
    "limits of B": [
        ("namespace/public/b@1", {"kind": "namespace/v1", "namespace": "public", "name": "b", "requests_per_minute": 1})
    ],
    "biases for B's labels": [
        (
            "calibration/b/private@1",
            {
                "kind": "calibration/v1",
                "namespace": "b",
                "name": "private",
                "endpoint_version": 1,
                "guidance": [],
                "model_fingerprint": FINGERPRINT,
                "method": "contextual",
                "biases": [{"label": "x", "bias": 1.0}],
                "texts": 1,
            },
        )
    ],
    "keys that climb": [
        ("endpoint/a/../b/private@80", B_PRIVATE),
        ("endpoint/a/own@1/../../b/private@80", B_PRIVATE),
        ("../b/endpoint/b/private@80", B_PRIVATE),
        ("endpoint/b/private@80\x00", B_PRIVATE),
        ("ENDPOINT/B/PRIVATE@80", B_PRIVATE),
    ],
    "look-alikes": [
        ("endpoint/b/рrivate@80", {**B_PRIVATE, "name": "рrivate"}),
        ("endpoint/ｂ/private@80", {**B_PRIVATE, "namespace": "ｂ"}),
    ],
    "names that no endpoint may have": [
        (f"endpoint/a/{name}@1", {**OF_A, "name": name}) for name in ("call", "catalogue", "x.in.v1", "..", "a/b", "")
    ],
    "targets that are not its own": [
        ("endpoint/a/aiming@1", {**OF_A, "name": "aiming", "targets": ["../b", "b.private", "/b/private"]})
    ],
    "what is no manifest": [("endpoint/a/odd@1", "{"), ("endpoint/a/odd@2", "[" * 50_000), ("", "x"), ("x", "\ud7ff")],
    "a manifest of many megabytes": [("endpoint/a/vast@1", {**OF_A, "name": "vast", "instruction": "x" * 4_000_000})],
    "a thousand endpoints": [(f"endpoint/a/e{n}@1", {**OF_A, "name": f"e{n}"}) for n in range(1000)],
}


@pytest.fixture(scope="module", autouse=True)
def _forged(world: World) -> None:
    for records in FORGERIES.values():
        _write(world, records)
    # Beside the forgeries, an ordinary version of A's own is applied and served.
    world.absorbed()


def _write(world: World, records: list[tuple[str, object]]) -> None:
    pairs = [(key, _encoded(value)) for key, value in records]
    world.a.send_all(CATALOGUE, pairs)


def _encoded(value: object) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@pytest.mark.parametrize("what", FORGERIES)
def test_what_is_forged_has_no_effect_on_others(world: World, what: str) -> None:
    assert FORGERIES[what]
    private = value_of(world.b.call(PRIVATE, "x"))
    assert "FORGED" not in json.dumps(private)
    assert SECRET in json.dumps(private)
    assert refusal_of(world.a.call(CALL, "x", {"endpoint": "/b/private"}))[0] == "not_allowed"
    for address in ("/b/shared", "/public/echo"):
        assert "FORGED" not in json.dumps(value_of(world.a.call(CALL, "x", {"endpoint": address})))


def test_an_administrator_sees_what_was_forged_as_what_it_is(world: World) -> None:
    listed = world.command("admin", "get", "endpoints", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "FORGED" not in listed.stdout
    told = world.command("admin", "doctor")
    assert "gw.a.catalogue.v1" in told.stdout + told.stderr


# Through a manifest of its own ---------------------------------------------------------------------------------------


def manifest_of_b(world: World, kind: str, name: str) -> dict[str, Any]:
    """What team B has applied, with its digest, which A has seen somewhere."""
    shown = world.command("team-b", "describe", kind, name)
    assert shown.returncode == 0, shown.stderr
    manifest: dict[str, Any] = yaml.safe_load(shown.stdout)
    return manifest


THIEVES: Final[Mapping[str, dict[str, Any]]] = {
    "B's text prompt": {"guidance": ["b/prompt"]},
    "B's text prompt of a version": {"guidance": ["b/prompt@1"]},
    "B's soft prompt": {"guidance": ["b/soft"]},
    "guidance of its own with the digest of B's": {"guidance": ["a/stolen"]},
    "guidance of its own with B's place in the store": {"guidance": ["a/climbing"]},
    "guidance that does not exist": {"guidance": ["b/none"]},
    "a set of B's": {"retrieval": {"sets": ["b/facts"]}},
    "a set of its own with the digest of B's": {"retrieval": {"sets": ["a/facts"]}},
}


@pytest.fixture(scope="module")
def thieves(world: World) -> Mapping[str, str]:
    """An endpoint of A's for each theft: what → its address."""
    world.make_facts_of_b()
    soft = {**manifest_of_b(world, "guidance", "b/soft"), "namespace": "a"}
    facts = {**manifest_of_b(world, "set", "b/facts"), "namespace": "a"}
    records: list[tuple[str, object]] = [
        ("guidance/a/stolen@1", {**soft, "name": "stolen"}),
        ("guidance/a/climbing@1", {**soft, "name": "climbing", "artefact": f"../b/{soft['artefact']}"}),
        ("set/a/facts@1", facts),
    ]
    addresses = {}
    for number, (what, fields) in enumerate(THIEVES.items()):
        records.append((f"endpoint/a/thief-{number}@1", {**OF_A, "name": f"thief-{number}", **fields}))
        addresses[what] = f"/a/thief-{number}"
    _write(world, records)
    world.absorbed()
    return addresses


@pytest.mark.parametrize("what", THIEVES)
def test_an_endpoint_of_as_brings_nothing_of_b(world: World, thieves: Mapping[str, str], what: str) -> None:
    code, message = refusal_of(world.a.call(CALL, "x", {"endpoint": thieves[what]}, timeout_s=60))
    assert code in {
        "guidance_forbidden",
        "guidance_unknown",
        "guidance_missing",
        "guidance_damaged",
        "not_allowed",
        "unknown_endpoint",
        "set_wrong_embedding",
    }, message
    assert "B's" not in message


def test_an_endpoint_that_lets_callers_name_guidance_lets_them_name_their_own(world: World) -> None:
    _write(world, [("endpoint/a/open@1", {**OF_A, "name": "open", "request_guidance": ["b/prompt"]})])
    world.absorbed()
    code, _ = refusal_of(world.a.call(CALL, "x", {"endpoint": "/a/open", "guidance": "b/prompt"}))
    assert code in {"guidance_forbidden", "guidance_unknown"}
