"""What team A tries with guideway's own commands: refused in one sentence, and nothing of B's is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import pytest
from tests.secured.services.ground import SECRET, SIZE
from tests.secured.services.world import FINGERPRINT, World

REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "describe B's endpoint": ("describe", "endpoint", "b/private"),
    "describe B's guidance": ("describe", "guidance", "b/prompt"),
    "describe B's set": ("describe", "set", "b/facts"),
    "delete B's endpoint": ("delete", "endpoint", "b/private"),
    "delete the platform's model": ("delete", "model", f"public/{SIZE}"),
    "send to B's endpoint": ("send", "/b/private", "hello", "--timeout", "5"),
    "follow B's replies": ("tail", "/b/private", "-n", "1", "--from-beginning"),
    "cancel a request of B's": ("cancel", "/b/private", "some-id"),
    "make a version of B's set": ("sets", "create", "b/facts", "facts.jsonl"),
    "search B's set": ("sets", "search", "b/facts", "Which colour?"),
    "add to B's set": ("sets", "add", "b/facts", "facts.jsonl"),
    "switch B's set": ("sets", "alias", "b/facts", "1"),
    "show B's dead letters": ("dlq", "show", "gw.b.private.in.v1.dlq"),
    "replay B's dead letters": ("dlq", "replay", "gw.b.private.in.v1.dlq"),
    "replay dead letters of workers": ("dlq", "replay", f"gw.infer.{SIZE}.interactive.v1.dlq"),
    "replay B's events": ("replay", "/b/private", "--from", "topic", "--with", "instruction=Tell all."),
    "replay B's archive": ("replay", "/b/private", "--from", "archive", "--with", "instruction=Tell all."),
    "remove trials of B's": ("replay", "/b/private", "--clean"),
    "take the results of a batch job of B's": ("batch", "results", "b/batch-1", "-o", "taken.jsonl"),
    "delete a batch job of B's": ("batch", "delete", "b/batch-1"),
    "show a namespace of others": ("namespaces", "show", "b"),
    "make a namespace": ("namespaces", "create", "c", "--principal", "User:team-a"),
    "join B's namespace": ("namespaces", "create", "b", "--principal", "User:team-a"),
    "become a service": ("services", "create", "--worker", "User:team-a"),
    "read the audit trail": ("audit",),
}


@pytest.fixture(scope="module", autouse=True)
def _b_has_facts(world: World) -> None:
    world.make_facts_of_b()


@pytest.mark.parametrize("what", REFUSED)
def test_a_command_is_refused(world: World, what: str) -> None:
    done = world.command("team-a", *REFUSED[what])
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert SECRET not in told
    assert "Traceback" not in told
    # Refused for what it is, and not for how it is written.
    assert "Usage" not in told
    assert re.search("[a-z]_[a-z]+: |refused|not_allowed|no right|may not", told), told


def test_a_set_of_b_is_refused_before_its_documents_are_read(world: World) -> None:
    file = world.home / "broken.jsonl"
    file.write_text("this is no JSON\n")
    done = world.command("team-a", "sets", "create", "b/facts", str(file))
    assert done.returncode == 1
    assert "not_allowed" in done.stderr
    assert "broken" not in done.stderr


APPLIED: Final[Mapping[str, dict[str, object]]] = {
    "an endpoint of B": {
        "kind": "endpoint/v1", "namespace": "b", "name": "private", "model_size": SIZE, "output": {"type": "text"}
    },
    "an endpoint of public": {
        "kind": "endpoint/v1", "namespace": "public", "name": "echo", "model_size": SIZE, "output": {"type": "text"}
    },
    "a model": {
        "kind": "model/v1", "namespace": "public", "name": "mine", "source": "mine", "fingerprint": FINGERPRINT
    },
    "limits of its own": {"kind": "namespace/v1", "namespace": "public", "name": "a", "weight": 100},
    "a router of B": {
        "kind": "router/v1", "namespace": "b", "name": "router", "rules": [{"when": "true", "to": "/a/own"}]
    },
    "guidance of B": {
        "kind": "guidance/v1", "namespace": "b", "name": "prompt", "form": "text_prompt", "text": "x"
    },
}  # fmt: skip


@pytest.mark.parametrize("what", APPLIED)
def test_what_is_of_others_is_not_applied(world: World, what: str) -> None:
    file = world.home / "foreign.yaml"
    file.write_text(json.dumps(APPLIED[what]))
    done = world.command("team-a", "apply", "-f", str(file))
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert SECRET not in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "listing",
    [("get", "endpoints"), ("get", "guidance"), ("get", "sets"), ("dlq", "list"), ("doctor",), ("namespaces", "list")],
    ids=" ".join,
)
def test_a_listing_shows_nothing_of_b(world: World, listing: tuple[str, ...]) -> None:
    done = world.command("team-a", *listing)
    told = done.stdout + done.stderr
    assert SECRET not in told
    for name in ("b/private", "gw.b.", "b/prompt", "b/facts", "team-b"):
        assert name not in told, told
    assert "Traceback" not in told
