"""The catalogue in memory. Pure: fed with records of the catalogue topic, asked by everybody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model, RetrievalSet, SetAlias
from guideway.schemas.request import GuidanceRef
from guideway.schemas.retrieval import SetRef
from guideway.schemas.wire import MANIFEST, Undecodable

Kind = Literal["endpoint", "guidance", "model", "set", "alias"]
KINDS: Final[tuple[Kind, ...]] = ("endpoint", "guidance", "model", "set", "alias")

_KEY: Final = re.compile(
    rf"(?P<kind>{'|'.join(KINDS)})/(?P<namespace>[a-z0-9-]+)/(?P<name>[a-z0-9-]+)@(?P<version>\d+)"
)


class Identity(msgspec.Struct, frozen=True, order=True):
    """What a manifest is about, whatever its version."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    def key(self, version: int) -> bytes:
        """The catalogue topic's record key: each version is kept, for requests under way are bound to one."""
        return f"{self.kind}/{self.namespace}/{self.name}@{version}".encode()

    @staticmethod
    def of(manifest: Manifest) -> Identity:
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


class Catalogue:
    """All versions of everything, by identity. Owned by the reader that feeds it; everybody else only asks."""

    def __init__(self) -> None:
        self._versions: dict[Identity, dict[int, Manifest]] = {}
        self.unreadable = 0
        """Records that this version of the program could not read, and therefore left out."""

    def absorb(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the catalogue topic; a null value removes that version."""
        match = _KEY.fullmatch((key or b"").decode("utf-8", "replace"))
        if match is None:
            self.unreadable += 1
            return
        kind: Kind = match["kind"]  # type: ignore[assignment]
        identity, version = Identity(kind, match["namespace"], match["name"]), int(match["version"])
        versions = self._versions.setdefault(identity, {})
        # A newer writer's manifest that we cannot read must not leave the older one in its place.
        versions.pop(version, None)
        if value is not None:
            try:
                manifest = MANIFEST.decode(value)
            except Undecodable:
                self.unreadable += 1
            else:
                versions[version] = manifest
        if not versions:
            del self._versions[identity]

    def versions(self, identity: Identity) -> list[int]:
        return sorted(self._versions.get(identity, ()))

    def latest(self, identity: Identity) -> tuple[int, Manifest] | None:
        """(version, manifest) of the newest version."""
        versions = self._versions.get(identity)
        return max(versions.items()) if versions else None

    def get(self, identity: Identity, version: int) -> Manifest | None:
        return self._versions.get(identity, {}).get(version)

    def identities(self, kind: Kind | None = None) -> list[Identity]:
        return sorted(identity for identity in self._versions if kind in (None, identity.kind))

    def __iter__(self) -> Iterator[tuple[int, Manifest]]:
        """(version, manifest), newest versions only, in order of identity."""
        return (max(self._versions[identity].items()) for identity in self.identities())

    # What producers and workers ask ----------------------------------------------------------------------------------

    def endpoint(self, namespace: str, name: str) -> tuple[int, Endpoint]:
        """The newest version. Raises Refusal(unknown_endpoint)."""
        found = self.latest(Identity("endpoint", namespace, name))
        if found is None or not isinstance(found[1], Endpoint):
            here = [other.name for other in self.identities("endpoint") if other.namespace == namespace]
            known = f"its endpoints are: {', '.join(here)}" if here else "that namespace has none"
            raise Refusal(
                FailureCode.UNKNOWN_ENDPOINT, f"there is no endpoint {names.address(namespace, name)}; {known}"
            )
        return found[0], found[1]

    def guidance(self, name: str, *, for_namespace: str) -> tuple[GuidanceRef, Guidance]:
        """Guidance by `NAMESPACE/NAME[@VERSION][*SCALE]`. Raises Refusal(guidance_unknown | guidance_forbidden)."""
        name, _, scale = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, _, version = rest.partition("@")
        identity = Identity("guidance", owner, plain)
        found = (int(version), self.get(identity, int(version))) if version.isdigit() else self.latest(identity)
        if found is None or not isinstance(found[1], Guidance):
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN, f"there is no guidance {name}: apply it, or correct the endpoint's list"
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

    def retrieval_set(self, name: str, *, for_namespace: str) -> tuple[SetRef, RetrievalSet]:
        """A set by `NAMESPACE/NAME[@VERSION][*WEIGHT]`. Raises Refusal(guidance_unknown | guidance_forbidden).

        The name alone stands for the version that its alias says, without an alias for the newest.
        """
        name, _, weight = name.partition("*")
        owner, _, rest = name.partition("/")
        plain, _, version = rest.partition("@")
        number = int(version) if version.isdigit() else self.current_version(owner, plain)
        found = self.get(Identity("set", owner, plain), number)
        if not isinstance(found, RetrievalSet):
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN,
                f"there is no retrieval set {name}: create it, or correct the endpoint's list",
            )
        if not found.usable_by(for_namespace):
            raise Refusal(
                FailureCode.GUIDANCE_FORBIDDEN,
                f"retrieval set {name} is not shared with namespace {for_namespace}: "
                f"ask {owner} to publish it with `--share {for_namespace}`",
            )
        return SetRef(namespace=owner, name=plain, version=number, weight=float(weight or 1)), found

    def current_version(self, namespace: str, name: str) -> int:
        """The version that the name of a retrieval set alone stands for; 0 where there is no set."""
        alias = self.latest(Identity("alias", namespace, name))
        if alias is not None and isinstance(alias[1], SetAlias):
            return alias[1].version
        return max(self.versions(Identity("set", namespace, name)), default=0)

    def model(self, size: str) -> Model:
        """The model behind a size, newest version. Raises Refusal(unknown_model_size)."""
        found = self.latest(Identity("model", "public", size))
        if found is None or not isinstance(found[1], Model):
            sizes = ", ".join(identity.name for identity in self.identities("model")) or "none"
            raise Refusal(FailureCode.UNKNOWN_MODEL_SIZE, f"there is no model size {size!r}; applied are: {sizes}")
        return found[1]


class Change(msgspec.Struct, frozen=True):
    """What applying a manifest does to the catalogue."""

    identity: Identity
    version: int
    manifest: Manifest
    action: Literal["created", "updated", "unchanged"]


def plan(catalogue: Catalogue, manifests: Iterable[Manifest]) -> list[Change]:
    """A changed manifest becomes the next version; an unchanged one stays what it is."""
    changes = []
    for manifest in manifests:
        identity = Identity.of(manifest)
        latest = catalogue.latest(identity)
        if latest is None:
            changes.append(Change(identity, 1, manifest, "created"))
        elif latest[1] == manifest:
            changes.append(Change(identity, latest[0], manifest, "unchanged"))
        else:
            changes.append(Change(identity, latest[0] + 1, manifest, "updated"))
    return changes
