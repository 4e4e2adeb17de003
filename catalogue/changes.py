"""Changes and deletions of the catalogue: which version is next, and which records to publish. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from guideway.catalogue.entries import MAX_VERSION, Catalogue, Identity
from guideway.catalogue.room import MOST_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Deleted, Manifest
from guideway.schemas.wire import CATALOGUE_ENTRY


class Change(msgspec.Struct, frozen=True):
    """What `apply` does with one manifest."""

    identity: Identity
    version: int
    manifest: Manifest
    action: Literal["created", "updated", "unchanged"]


class Deletion(msgspec.Struct, frozen=True):
    """One version is deleted."""

    identity: Identity
    version: int
    kept: bool
    """Whether its number stays in the catalogue as deleted: it is the highest, and the next version counts from it."""


class Moved(msgspec.Struct, frozen=True):
    """One version as it stood in the catalogue of an earlier guideway, whatever it is."""

    identity: Identity
    version: int
    value: bytes


def plan_changes(catalogue: Catalogue, manifests: Iterable[Manifest]) -> list[Change]:
    """The change that each manifest makes: a changed one becomes the next version, an unchanged one stays.

    A version number is used once, even after a deletion, because requests under way refer to versions by number.
    Raises Refusal(invalid_manifest) if the newest version cannot be read, no number is left, or the namespace has no
    room for more.
    """
    changes = []
    for manifest in manifests:
        identity = Identity.of(manifest)
        latest = catalogue.latest(identity)
        require_newest_read(catalogue, identity)
        following = catalogue.last_given(identity) + 1
        if latest is not None and CATALOGUE_ENTRY.encode(latest[1]) == CATALOGUE_ENTRY.encode(manifest):
            # Compared as JSON: in Python true equals 1, and the order of a schema's properties does not count.
            changes.append(Change(identity, latest[0], manifest, "unchanged"))
        elif following > MAX_VERSION:
            raise Refusal(
                FailureCode.INVALID_MANIFEST,
                f"{identity} has had version {MAX_VERSION}, and no higher one can be: give it another name",
            )
        else:
            changes.append(Change(identity, following, manifest, "created" if latest is None else "updated"))
    _require_room(catalogue, changes)
    return changes


def _require_room(catalogue: Catalogue, changes: Iterable[Change]) -> None:
    """Raises Refusal(invalid_manifest) if a namespace would have more than processes take in of it."""
    values: dict[str, list[bytes]] = {}
    for one in changes:
        if one.action != "unchanged":
            values.setdefault(one.identity.topic, []).append(CATALOGUE_ENTRY.encode(one.manifest))
            if not catalogue.has_room_for(one.identity, values[one.identity.topic]):
                raise Refusal(
                    FailureCode.INVALID_MANIFEST,
                    f"the catalogue of namespace {one.identity.namespace} would have more than {MOST_BYTES // 2**20} "
                    "MiB, and no process would take more in: delete versions that are not used any more",
                )


def require_newest_read(catalogue: Catalogue, identity: Identity) -> None:
    """Raises Refusal(invalid_manifest) if the newest version cannot be read: its content is unknown here."""
    unread = catalogue.unread(identity)
    if unread and unread[-1].version > max(catalogue.versions(identity), default=0):
        newest = unread[-1]
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            f"version {newest.version} of {identity} cannot be read by this guideway ({newest.why}), so nothing is "
            "written over it: use the newer guideway that wrote it, or remove it with "
            f"`guideway delete {identity.kind} {identity.namespace}/{identity.name}@{newest.version} --anyway`",
        )


def plan_deletion(catalogue: Catalogue, identity: Identity, versions: Sequence[int]) -> list[Deletion]:
    """The deletion of these versions, and of numbers that earlier deletions kept and that are not needed any more."""
    last = catalogue.last_given(identity)
    needless = [number for number in catalogue.kept_as_deleted(identity) if number < last and last in versions]
    return [Deletion(identity, number, kept=number == last) for number in [*versions, *needless]]


def catalogue_records(changes: Iterable[Change | Deletion | Moved]) -> list[tuple[str, bytes, bytes | None]]:
    """(topic, key, value) of a record of the catalogue, for each change except unchanged manifests."""
    found: list[tuple[str, bytes, bytes | None]] = []
    for change in changes:
        topic, key = change.identity.topic, change.identity.key(change.version)
        if isinstance(change, Deletion):
            found.append((topic, key, CATALOGUE_ENTRY.encode(Deleted()) if change.kept else None))
        elif isinstance(change, Moved):
            found.append((topic, key, change.value))
        elif change.action != "unchanged":
            found.append((topic, key, CATALOGUE_ENTRY.encode(change.manifest)))
    return found
