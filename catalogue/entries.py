"""The catalogue in memory, built from the records of the catalogue topic. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Calibrated, Deleted, Endpoint, Guidance, Manifest, Model, RetrievalSet, SetAlias
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.request import GuidanceRef
from guideway.schemas.retrieval import SetRef
from guideway.schemas.wire import CATALOGUE_ENTRY, Undecodable

Kind = Literal["endpoint", "guidance", "model", "set", "alias", "calibration"]
KINDS: Final[tuple[Kind, ...]] = ("endpoint", "guidance", "model", "set", "alias", "calibration")

MAX_VERSION: Final = 999_999_999
"""The highest version of a name; references have no room for more (`schemas.retrieval.GuidanceName`)."""
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_KEY: Final = re.compile(
    rf"(?P<kind>{'|'.join(KINDS)})/(?P<namespace>{names.NAME.pattern})/(?P<name>{names.NAME.pattern})"
    rf"@(?P<version>{_VERSION.pattern})"
)


class Identity(msgspec.Struct, frozen=True, order=True):
    """Kind, namespace and name of a manifest: what all its versions share."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    def key(self, version: int) -> bytes:
        """The key of the version's record in the catalogue topic. Each version is kept: requests under way use it."""
        return f"{self.kind}/{self.namespace}/{self.name}@{version}".encode()

    @staticmethod
    def of(manifest: Manifest) -> Identity:
        """The identity of a manifest."""
        match manifest:
            case Endpoint():
                return Identity("endpoint", manifest.namespace, manifest.name)
            case Guidance():
                return Identity("guidance", manifest.namespace, manifest.name)
            case Model():
                return Identity("model", manifest.namespace, manifest.name)
            case RetrievalSet():
                return Identity("set", manifest.namespace, manifest.name)
            case SetAlias():
                return Identity("alias", manifest.namespace, manifest.name)
            case Calibrated():
                return Identity("calibration", manifest.namespace, manifest.name)


class UnreadableVersion(msgspec.Struct, frozen=True, order=True):
    """A version in the catalogue that this program cannot read; usually a newer guideway has written it."""

    identity: Identity
    version: int
    why: str


class Catalogue:
    """All versions of all manifests, by identity. The follower that feeds it owns it; all others only ask."""

    def __init__(self) -> None:
        self._versions: dict[Identity, dict[int, Manifest]] = {}
        self._unread: dict[Identity, dict[int, str]] = {}
        """Identity → version → why it cannot be read."""
        self._deleted: dict[Identity, set[int]] = {}
        """Versions whose numbers are kept as deleted."""
        self._given: dict[Identity, int] = {}
        """The highest version that ever existed, as far as the topic shows: it is not used again."""
        self.strangers = 0
        """How many records have a key of another form."""

    @property
    def unreadable(self) -> int:
        """How many records this program could not read and left out."""
        return self.strangers + sum(map(len, self._unread.values()))

    def absorb(self, key: bytes | None, value: bytes | None) -> None:
        """Take in one record of the catalogue topic, whatever it holds. A null value removes that version."""
        match = _KEY.fullmatch((key or b"").decode("utf-8", "replace"))
        if match is None:
            self.strangers += 1
            return
        kind: Kind = match["kind"]  # type: ignore[assignment]
        identity, version = Identity(kind, match["namespace"], match["name"]), int(match["version"])
        self._given[identity] = max(version, self._given.get(identity, 0))
        self._forget(identity, version)
        if value is None:
            return
        try:
            entry = CATALOGUE_ENTRY.decode(value)
        except Undecodable as error:
            # It must not let an older version count as the newest: see `plan_changes`.
            self._unread.setdefault(identity, {})[version] = str(error)
            return
        if isinstance(entry, Deleted):
            self._deleted.setdefault(identity, set()).add(version)
        elif Identity.of(entry) != identity:
            self._unread.setdefault(identity, {})[version] = f"it is the manifest of {Identity.of(entry)}"
        else:
            self._versions.setdefault(identity, {})[version] = entry

    def _forget(self, identity: Identity, version: int) -> None:
        self._deleted.get(identity, set()).discard(version)
        for by_version in (self._versions, self._unread):
            versions = by_version.get(identity, {})
            versions.pop(version, None)
            if not versions:
                by_version.pop(identity, None)

    def after(self, records: Iterable[tuple[bytes, bytes | None]]) -> Catalogue:
        """The catalogue as these records (key, value) of its topic will make it; this one stays as it is."""
        later = Catalogue()
        later._versions = {identity: dict(versions) for identity, versions in self._versions.items()}
        later._unread = {identity: dict(versions) for identity, versions in self._unread.items()}
        later._given = dict(self._given)
        for key, value in records:
            later.absorb(key, value)
        return later

    def versions(self, identity: Identity) -> list[int]:
        """The versions that can be read, in order."""
        return sorted(self._versions.get(identity, ()))

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
        return sorted(identity for identity in self._versions if kind in (None, identity.kind))

    def __iter__(self) -> Iterator[tuple[int, Manifest]]:
        """(version, manifest), newest versions only, in order of identity."""
        return (max(self._versions[identity].items()) for identity in self.identities())

    # What producers and workers ask ----------------------------------------------------------------------------------

    def endpoint(self, namespace: str, name: str) -> tuple[int, Endpoint]:
        """(version, endpoint), the newest version. Raises Refusal(unknown_endpoint)."""
        found = self.latest(Identity("endpoint", namespace, name))
        if found is None or not isinstance(found[1], Endpoint):
            here = [other.name for other in self.identities("endpoint") if other.namespace == namespace]
            more = ", …" if len(here) > 20 else ""
            known = f"namespace {namespace} has: {', '.join(here[:20])}{more}" if here else "that namespace has none"
            raise Refusal(
                FailureCode.UNKNOWN_ENDPOINT,
                f"there is no endpoint {names.address(namespace, name)}, or it was deleted: correct the address, or "
                f"apply it; {known}",
            )
        return found[0], found[1]

    def guidance(self, name: str, *, for_namespace: str) -> tuple[GuidanceRef, Guidance]:
        """Guidance by `NAMESPACE/NAME[@VERSION][*SCALE]`. Raises Refusal(guidance_unknown | guidance_forbidden)."""
        name, _, scale = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, at, version = rest.partition("@")
        identity = Identity("guidance", owner, plain)
        found = (number := _number(version), self.get(identity, number)) if at else self.latest(identity)
        if found is None or not isinstance(found[1], Guidance):
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN,
                f"there is no guidance {name}{self._instead(identity)}: apply it, or correct the name",
            )
        number, guidance = found[0], found[1]
        if not guidance.usable_by(for_namespace):
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"guidance {name} is not shared with namespace {for_namespace}: "
                f"ask {owner} to add it to the guidance's `shared_with`",
            )
        if scale and float(scale) != 1 and guidance.form != "lora":
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"guidance {name} is of form {guidance.form}, and only a lora takes a scale: name it without *{scale}",
            )
        return GuidanceRef(namespace=owner, name=plain, version=number, scale=float(scale or 1)), guidance

    def _instead(self, identity: Identity) -> str:
        """For a message: which versions of this identity exist."""
        there = [*self.versions(identity)]
        return f" (there is version {', '.join(map(str, there[-10:]))})" if there else ""

    def retrieval_set(self, name: str, *, for_namespace: str) -> tuple[SetRef, RetrievalSet]:
        """A set by `NAMESPACE/NAME[@VERSION][*WEIGHT]`. Raises Refusal(guidance_unknown | guidance_forbidden).

        The name alone means the version of its alias, or without an alias the newest.
        """
        name, _, weight = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, at, version = rest.partition("@")
        number = _number(version) if at else self.current_version(owner, plain)
        identity = Identity("set", owner, plain)
        found = self.get(identity, number)
        if not isinstance(found, RetrievalSet):
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN,
                f"there is no retrieval set {name}{self._instead(identity)}: create it, or correct the name",
            )
        if not found.usable_by(for_namespace):
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"retrieval set {name} is not shared with namespace {for_namespace}: "
                f"ask {owner} to publish it with `--share {for_namespace}`",
            )
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
            raise Refusal(
                FailureCode.UNKNOWN_ENDPOINT,
                f"version {version} of endpoint {names.address(namespace, name)} was deleted: publish the event again",
            )
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
            sizes = [identity.name for identity in self.identities("model")]
            there = f"name one that is there ({', '.join(sizes[:20])}), or " if sizes else ""
            demonstration = (
                "`guideway apply --with-small` adds the one that the packages carry" if size == "small" else ""
            )
            raise Refusal(
                FailureCode.UNKNOWN_MODEL_SIZE,
                f"there is no model size {size!r}: {did_you_mean(size, sizes)}{there}"
                f"{demonstration or f'apply a manifest of kind model/v1 with the name {size}'}",
            )
        return found[1]


def _number(version: str) -> int:
    """The number of a written version; 0 if it is none. No version is 0."""
    return int(version) if _VERSION.fullmatch(version) else 0
