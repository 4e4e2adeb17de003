"""What team A has the steward do by what it writes into a catalogue of its own: no more than it may have.

Here A's namespace is `greedy`. The steward takes one look at its catalogue, and at B's.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

import pytest
from tests.secured.cluster import SecuredCluster
from tests.secured.services.ground import SIZE
from tests.secured.services.intruder import Intruder

from guideway.catalogue.entries import Catalogue, Identity
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights import keeping
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.wire import MANIFEST
from guideway.usecases.rights.create import Wanted, create_namespace
from guideway.usecases.rights.steward import Steward

MOST: Final = 6
GREEDY: Final = {"kind": "endpoint/v1", "namespace": "greedy", "model_size": SIZE, "output": {"type": "text"}}
_OF_OURS: Final = ("call", "catalogue", "gateway")
_PLAIN: Final = ("training", "dlq", "in", "v1")
_NONE: Final = ("x.in.v1", "..", "../b", "b.private", "X", "a b", "", "x" * 64, "рrivate", "*", "x\n")

ASKED: Final[Mapping[str, list[tuple[str, dict[str, Any]]]]] = {
    "names that would be topics of the platform": [(name, {}) for name in _OF_OURS],
    "names that look like parts of a topic's name": [(name, {}) for name in _PLAIN],
    "names that no endpoint may have": [(name, {}) for name in _NONE],
    "an endpoint of ten thousand partitions": [("wide", {"partitions": 10_000})],
    "an endpoint of minus one partition": [("narrow", {"partitions": -1})],
    "topics of B as targets": [("aims", {"targets": ["../b", "b.private"]})],
    "an endpoint of B": [("private", {"namespace": "b"})],
    "a thousand endpoints": [(f"many-{number}", {}) for number in range(1000)],
}


@pytest.fixture(scope="module")
def looked(ground: SecuredCluster) -> Iterator[tuple[set[str], set[str], str]]:
    """The topics before and after the steward's look, and the name of an endpoint that B has applied meanwhile."""
    asyncio.run(create_namespace(ground.kafka.internal, Wanted("greedy", (f"User:{ground.add_principal('greedy')}",))))
    greedy, new = Intruder(ground, "greedy"), f"late-{uuid.uuid4().hex[:8]}"
    pairs = [
        (f"endpoint/greedy/{name}@1", json.dumps({**GREEDY, "name": name, **fields}).encode())
        for asked in ASKED.values()
        for name, fields in asked
    ]
    greedy.send_all("gw.greedy.catalogue.v1", pairs)
    catalogue = Catalogue()
    for message in greedy.read("gw.greedy.catalogue.v1"):
        catalogue.absorb(message.topic() or "", message.key(), message.value())
    late = Endpoint(namespace="b", name=new, model_size=SIZE, output=Text())
    catalogue.absorb(Identity.of(late).topic, Identity.of(late).key(1), MANIFEST.encode(late))
    before = {*ground.admin.list_topics(timeout=20).topics}
    login = Cluster.from_environ(ground.environ("gw-steward"))
    assert login is not None
    reader: Any = SimpleNamespace(catalogue=catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_ENDPOINTS", MOST)
        asyncio.run(Steward(login, reader).keep())
    yield before, {*ground.admin.list_topics(timeout=20).topics}, new
    # Others look at all namespaces of this cluster.
    greedy.send_all("gw.greedy.catalogue.v1", [(key, None) for key, _ in pairs])


@pytest.mark.parametrize("what", ASKED)
def test_the_steward_makes_what_the_namespace_may_have(looked: tuple[set[str], set[str], str], what: str) -> None:
    before, after, _ = looked
    made = {one for one in after - before if not one.startswith("gw.b.late-")}
    allowed = [name for asked in ASKED.values() for name, _ in asked if name not in (*_OF_OURS, *_NONE)]
    events = {one for one in made if one.endswith(".in.v1")}
    assert 0 < len(events) <= MOST
    assert events <= {f"gw.greedy.{name}.in.v1" for name in allowed}
    assert made <= {topic for one in events for topic in (one, f"{one}.dlq", one.replace(".in.v1", ".out.v1"))}
    for name, fields in ASKED[what]:
        if fields or name in (*_OF_OURS, *_NONE):
            assert f"gw.greedy.{name}.in.v1" not in made
            assert f"gw.b.{name}.out.v1" not in made


def test_what_b_has_applied_gets_its_topics_at_the_same_look(looked: tuple[set[str], set[str], str]) -> None:
    _, after, new = looked
    assert {f"gw.b.{new}.in.v1", f"gw.b.{new}.in.v1.dlq", f"gw.b.{new}.out.v1"} <= after
