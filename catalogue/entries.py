"""The catalogue in memory, built from the records of the catalogue topics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from guideway.catalogue import refusals
from guideway.catalogue.bounds import too_much
from guideway.catalogue.identity import (
    KINDS,
    MAX_VERSION,
    ForeignRecords,
    Identity,
    Kind,
    UnreadableVersion,
    disagreement,
    number_of,
    of_key,
)
from guideway.catalogue.room import Room
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.kinds.retrieval_set import RetrievalSet, SetAlias
from guideway.schemas.manifests import Deleted, Endpoint, Guidance, Manifest, Model
from guideway.schemas.request import GuidanceRef
from guideway.schemas.retrieval import SetRef
from guideway.schemas.wire import CATALOGUE_ENTRY, Undecodable

__all__ = ["KINDS", "MAX_VERSION", "Catalogue", "Identity", "Kind", "UnreadableVersion"]


class Catalogue:
    """All versions of all manifests, by identity. The follower that feeds it owns it; all others only ask."""

    def __init__(self) -> None:
        self._versions: dict[Identity, dict[int, Manifest]] = {}
        self._owned: dict[tuple[Kind, str], set[Identity]] = {}
        """(kind, namespace) → those of `_versions`."""
        self._places: dict[tuple[Identity, int], int] = {}
        """(identity, version) → its place in the order in which the topic has them."""
        self._unread: dict[Identity, dict[int, str]] = {}
        """Identity → version → why it cannot be read."""
        self._deleted: dict[Identity, set[int]] = {}
        """Versions whose numbers are kept as deleted."""
        self._given: dict[Identity, int] = {}
        """The highest version that ever existed, as far as the topic shows: it is not used again."""
        self._room = Room()
        self.changes = 0
        """How many changes were taken in: where it is the same, so are all answers."""
        self.hidden: frozenset[str] = frozenset()
        """Namespaces that whoever asks may not see: what is named of them is not known to be missing."""
        self.strangers = 0
        """How many records have a key of another form."""
        self.foreign = ForeignRecords()

    @property
    def unreadable(self) -> int:
        """How many records this program could not read and left out."""
        return self.strangers + sum(map(len, self._unread.values())) + sum(self._room.left_out.values())

    def absorb(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Take in one record of a catalogue topic, whatever it holds. A null value removes that version.

        It counts only if topic, key and manifest agree on kind, namespace and name. Else it changes nothing, so that
        whoever may write one topic has no effect on what stands in another.
        """
        named = of_key(key)
        if named is None:
            self.strangers += 1
            return
        identity, version = named
        unread, entry = "", None
        if value is not None:
            try:
                entry = CATALOGUE_ENTRY.decode(value)
            except Undecodable as error:
                unread = str(error)
            else:
                # Who writes the topic by hand has passed no check of `apply`.
                if not isinstance(entry, Deleted):
                    unread = next((message for _, message in too_much(entry)), "")
        if why := disagreement(topic, identity, entry):
            self.foreign.note(topic, key, why)
            return
        if not self._room.takes(identity, version, value):
            return
        self.changes += 1
        self._given[identity] = max(version, self._given.get(identity, 0))
        self._forget(identity, version)
        if unread:
            # It must not let an older version count as the newest: see `plan_changes`.
            self._unread.setdefault(identity, {})[version] = unread
        elif isinstance(entry, Deleted):
            self._deleted.setdefault(identity, set()).add(version)
        elif entry is not None:
            self._versions.setdefault(identity, {})[version] = entry
            self._owned.setdefault((identity.kind, identity.namespace), set()).add(identity)
            self._places[identity, version] = self.changes

    def forget_topic(self, topic: str) -> None:
        """Forget all that a topic said: it is no more, or may not be read any more."""
        self.changes += 1
        self._room.forget(topic)
        for by_identity in (self._versions, self._unread, self._deleted, self._given):
            for identity in [one for one in by_identity if one.topic == topic]:
                del by_identity[identity]
                self._disown(identity)
        self.foreign.forget(topic)

    def left_out(self) -> dict[str, int]:
        """Topic → how many of its records were not taken in: its namespace has more than `room.MOST_BYTES`."""
        return {topic: count for topic, count in self._room.left_out.items() if count}

    def has_room_for(self, identity: Identity, values: Sequence[bytes]) -> bool:
        """Whether new records with these values would be taken in, in the topic of this identity."""
        return self._room.has_for(identity, values)

    def _forget(self, identity: Identity, version: int) -> None:
        self._places.pop((identity, version), None)
        self._deleted.get(identity, set()).discard(version)
        for by_version in (self._versions, self._unread):
            versions = by_version.get(identity, {})
            versions.pop(version, None)
            if not versions:
                by_version.pop(identity, None)
        self._disown(identity)

    def _disown(self, identity: Identity) -> None:
        owner = identity.kind, identity.namespace
        if identity not in self._versions and (owned := self._owned.get(owner)) is not None:
            owned.discard(identity)
            if not owned:
                del self._owned[owner]

    def after(self, records: Iterable[tuple[str, bytes, bytes | None]]) -> Catalogue:
        """The catalogue as these records (topic, key, value) will make it; this one stays as it is."""
        later = Catalogue()
        later._versions = {identity: dict(versions) for identity, versions in self._versions.items()}
        later._owned = {owner: set(owned) for owner, owned in self._owned.items()}
        later._unread = {identity: dict(versions) for identity, versions in self._unread.items()}
        later._deleted = {identity: set(versions) for identity, versions in self._deleted.items()}
        later._given = dict(self._given)
        later._room = self._room.copy()
        later._places, later.changes = dict(self._places), self.changes
        later.hidden = self.hidden
        for topic, key, value in records:
            later.absorb(topic, key, value)
        return later

    def versions(self, identity: Identity) -> list[int]:
        """The versions that can be read, in order."""
        return sorted(self._versions.get(identity, ()))

    def by_creation(self, kind: Kind, namespace: str) -> list[Identity]:
        """The identities of a namespace, that of the oldest version that is still there first: all readers agree."""
        return sorted(
            self._owned.get((kind, namespace), ()),
            key=lambda one: min(self._places[one, version] for version in self._versions[one]),
        )

    def latest(self, identity: Identity) -> tuple[int, Manifest] | None:
        """(version, manifest) of the newest version."""
        versions = self._versions.get(identity)
        return max(versions.items()) if versions else None

    def get(self, identity: Identity, version: int) -> Manifest | None:
        """One version; None if it does not exist or cannot be read."""
        return self._versions.get(identity, {}).get(version)

    def last_given(self, identity: Identity) -> int:
        """The highest version that ever existed, deleted and unreadable ones included; 0 if none did."""
        return self._given.get(identity, 0)

    def kept_as_deleted(self, identity: Identity) -> list[int]:
        """The deleted versions whose numbers are still kept, in order."""
        return sorted(self._deleted.get(identity, ()))

    def unread(self, identity: Identity | None = None) -> list[UnreadableVersion]:
        """The versions that cannot be read, of this identity or of all."""
        found = self._unread if identity is None else {identity: self._unread.get(identity, {})}
        return sorted(
            UnreadableVersion(one, number, why) for one, whys in found.items() for number, why in whys.items()
        )

    def identities(self, kind: Kind | None = None) -> list[Identity]:
        """All identities, or those of one kind, in order."""
        if kind is None:
            return sorted(self._versions)
        return sorted(one for (of_kind, _), owned in self._owned.items() if of_kind == kind for one in owned)

    def owned(self, kind: Kind, namespace: str) -> list[Identity]:
        """The identities of a namespace, in order."""
        return sorted(self._owned.get((kind, namespace), ()))

    def __iter__(self) -> Iterator[tuple[int, Manifest]]:
        """(version, manifest), newest versions only, in order of identity."""
        return (max(self._versions[identity].items()) for identity in self.identities())

    # What producers and workers ask ----------------------------------------------------------------------------------

    def endpoint(self, namespace: str, name: str) -> tuple[int, Endpoint]:
        """(version, endpoint), the newest version. Raises Refusal(unknown_endpoint)."""
        found = self.latest(Identity("endpoint", namespace, name))
        if found is None or not isinstance(found[1], Endpoint):
            raise refusals.no_endpoint(namespace, name, [other.name for other in self.owned("endpoint", namespace)])
        return found[0], found[1]

    def guidance(self, name: str, *, for_namespace: str) -> tuple[GuidanceRef, Guidance]:
        """Guidance by `NAMESPACE/NAME[@VERSION][*SCALE]`. Raises Refusal(guidance_unknown | guidance_forbidden)."""
        name, _, scale = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, at, version = rest.partition("@")
        identity = Identity("guidance", owner, plain)
        found = (number := number_of(version), self.get(identity, number)) if at else self.latest(identity)
        if found is None or not isinstance(found[1], Guidance):
            raise refusals.no_guidance(name, self.versions(identity))
        number, guidance = found[0], found[1]
        if not guidance.usable_by(for_namespace):
            raise refusals.guidance_not_shared(name, owner, for_namespace)
        if scale and float(scale) != 1 and guidance.form != "lora":
            raise refusals.takes_no_scale(name, guidance.form, scale)
        return GuidanceRef(namespace=owner, name=plain, version=number, scale=float(scale or 1)), guidance

    def retrieval_set(self, name: str, *, for_namespace: str) -> tuple[SetRef, RetrievalSet]:
        """A set by `NAMESPACE/NAME[@VERSION][*WEIGHT]`. Raises Refusal(guidance_unknown | guidance_forbidden).

        The name alone means the version of its alias, or without an alias the newest.
        """
        name, _, weight = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, at, version = rest.partition("@")
        number = number_of(version) if at else self.current_version(owner, plain)
        identity = Identity("set", owner, plain)
        found = self.get(identity, number)
        if not isinstance(found, RetrievalSet):
            raise refusals.no_set(name, self.versions(identity))
        if not found.usable_by(for_namespace):
            raise refusals.set_not_shared(name, owner, for_namespace)
        return SetRef(namespace=owner, name=plain, version=number, weight=float(weight or 1)), found

    def current_version(self, namespace: str, name: str) -> int:
        """The version that the name of a retrieval set alone means; 0 if there is no set."""
        alias = self.latest(Identity("alias", namespace, name))
        if alias is not None and isinstance(alias[1], SetAlias):
            return alias[1].version
        return max(self.versions(Identity("set", namespace, name)), default=0)

    def endpoint_at(self, namespace: str, name: str, version: int) -> Endpoint:
        """One version. Raises Refusal(unknown_endpoint)."""
        found = self.get(Identity("endpoint", namespace, name), version)
        if not isinstance(found, Endpoint):
            raise refusals.no_version(namespace, name, version)
        return found

    def calibrated(
        self, namespace: str, name: str, *, endpoint_version: int, guidance: Sequence[str], model_fingerprint: str
    ) -> Calibrated | None:
        """The biases of the endpoint's labels with this version, guidance and model; None if they are unknown."""
        versions = self._versions.get(Identity("calibration", namespace, name), {})
        wanted = endpoint_version, [*guidance], model_fingerprint
        for version in sorted(versions, reverse=True):
            one = versions[version]
            if isinstance(one, Calibrated) and wanted == (one.endpoint_version, one.guidance, one.model_fingerprint):
                return one
        return None

    def model(self, size: str) -> Model:
        """The model behind a size, newest version. Raises Refusal(unknown_model_size)."""
        found = self.latest(Identity("model", "public", size))
        if found is None or not isinstance(found[1], Model):
            raise refusals.no_model(size, [identity.name for identity in self.identities("model")])
        return found[1]
