"""What an entry of the catalogue is called, and whether a record in a topic of the catalogue counts. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final, Literal

import msgspec

from guideway.schemas.manifests import Deleted, Manifest
from guideway.schemas.names.addresses import NAME, PUBLIC
from guideway.schemas.names.service_topics import CALIBRATIONS_TOPIC, PUBLIC_CATALOGUE_TOPIC, catalogue_topic

Kind = Literal[
    "endpoint", "guidance", "model", "set", "alias", "calibration", "namespace", "router", "webhook", "target"
]
KINDS: Final[tuple[Kind, ...]] = (
    "endpoint",
    "guidance",
    "model",
    "set",
    "alias",
    "calibration",
    "namespace",
    "router",
    "webhook",
    "target",
)

OF_THE_PLATFORM: Final = frozenset({"model", "namespace"})
"""Kinds that count in the catalogue of `public` only: models and the limits of namespaces."""

MAX_VERSION: Final = 999_999_999
"""The highest version of a name; references have no room for more (`schemas.retrieval.GuidanceName`)."""
MOST_FOREIGN: Final = 1000
"""So many records that do not count are remembered; beyond that they are only counted."""
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_KEY: Final = re.compile(
    rf"(?P<kind>{'|'.join(KINDS)})/(?P<namespace>{NAME.pattern})/(?P<name>{NAME.pattern})"
    rf"@(?P<version>{_VERSION.pattern})"
)


class Identity(msgspec.Struct, frozen=True, order=True):
    """Kind, namespace and name of a manifest: what all its versions share."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def topic(self) -> str:
        """The topic in which its versions count."""
        return CALIBRATIONS_TOPIC if self.kind == "calibration" else catalogue_topic(self.namespace)

    def key(self, version: int) -> bytes:
        """The key of the version's record in its topic. Each version is kept: requests under way use it."""
        return f"{self.kind}/{self.namespace}/{self.name}@{version}".encode()

    @staticmethod
    def of(manifest: Manifest) -> Identity:
        """The identity of a manifest."""
        # The tag of a manifest is its kind and a version: `endpoint/v1`.
        kind: Kind = manifest.__struct_config__.tag.partition("/")[0]  # type: ignore[union-attr, assignment]
        return Identity(kind, manifest.namespace, manifest.name)


class UnreadableVersion(msgspec.Struct, frozen=True, order=True):
    """A version in the catalogue that this program cannot read; usually a newer guideway has written it."""

    identity: Identity
    version: int
    why: str


class ForeignRecord(msgspec.Struct, frozen=True, order=True):
    """A record in a topic of the catalogue whose key, manifest and topic do not agree: it counts for nothing."""

    topic: str
    key: str
    why: str


class ForeignRecords:
    """The records that count for nothing. The catalogue that notes them owns it."""

    def __init__(self) -> None:
        self._why: dict[tuple[str, bytes], str] = {}
        """(topic, key) → why; not all where there are many."""
        self._counts: Counter[str] = Counter()
        """By topic."""

    @property
    def count(self) -> int:
        """How many there are; above `MOST_FOREIGN`, one that is written again counts again."""
        return self._counts.total()

    def note(self, topic: str, key: bytes | None, why: str) -> None:
        """One that does not agree with its topic."""
        place = topic, key or b""
        if place not in self._why:
            self._counts[topic] += 1
        if place in self._why or len(self._why) < MOST_FOREIGN:
            self._why[place] = why

    def forget(self, topic: str) -> None:
        """The topic is no more."""
        self._why = {place: why for place, why in self._why.items() if place[0] != topic}
        del self._counts[topic]

    def records(self) -> list[ForeignRecord]:
        """In order; at most `MOST_FOREIGN` of them."""
        return sorted(
            ForeignRecord(topic, key[:200].decode("utf-8", "replace"), why) for (topic, key), why in self._why.items()
        )


def of_key(key: bytes | None) -> tuple[Identity, int] | None:
    """(identity, version) of a record's key; None if it is none of ours."""
    match = _KEY.fullmatch((key or b"").decode("utf-8", "replace"))
    if match is None:
        return None
    kind: Kind = match["kind"]  # type: ignore[assignment]
    return Identity(kind, match["namespace"], match["name"]), int(match["version"])


def disagreement(topic: str, identity: Identity, entry: Manifest | Deleted | None) -> str:
    """Why a record with this key does not count in this topic; empty if it does.

    Whoever may write one topic must have no effect on what stands in another, whatever the record says of itself.
    entry: what the record holds; None: nothing, or it cannot be read.
    """
    if identity.topic != topic:
        return f"{identity} is taken from {identity.topic} only"
    if identity.kind in OF_THE_PLATFORM and identity.namespace != PUBLIC:
        return f"a {identity.kind} is taken from {PUBLIC_CATALOGUE_TOPIC} only"
    if entry is not None and not isinstance(entry, Deleted) and Identity.of(entry) != identity:
        return f"it is the manifest of {Identity.of(entry)}"
    return ""


def number_of(version: str) -> int:
    """The number of a written version; 0 if it is none. No version is 0."""
    return int(version) if _VERSION.fullmatch(version) else 0
