"""What a change or a deletion does to the catalogue: which version is next, and which records say so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from guideway.catalogue.entries import MAX_VERSION, Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Deleted, Manifest
from guideway.schemas.wire import CATALOGUE_ENTRY


class Change(msgspec.Struct, frozen=True):
    """What applying a manifest does to the catalogue."""

    identity: Identity
    version: int
    manifest: Manifest
    action: Literal["created", "updated", "unchanged"]


class Deletion(msgspec.Struct, frozen=True):
    """One version goes."""

    identity: Identity
    version: int
    kept: bool
    """Whether its number stays in the catalogue, as deleted: it is the highest, from which the next one is counted."""


def plan_changes(catalogue: Catalogue, manifests: Iterable[Manifest]) -> list[Change]:
    """A changed manifest becomes the next version; an unchanged one stays what it is.

    A version is never given twice, whatever was deleted: requests that are under way are bound to one by its number.
    Raises Refusal(invalid_manifest) where the newest version cannot be read, or no number is left.
    """
    changes = []
    for manifest in manifests:
        identity = Identity.of(manifest)
        latest = catalogue.latest(identity)
        require_newest_read(catalogue, identity)
        following = catalogue.last_given(identity) + 1
        if latest is not None and CATALOGUE_ENTRY.encode(latest[1]) == CATALOGUE_ENTRY.encode(manifest):
            # As they are kept: to Python, true equals 1, and the properties of a schema have no order.
            changes.append(Change(identity, latest[0], manifest, "unchanged"))
        elif following > MAX_VERSION:
            raise Refusal(
                FailureCode.INVALID_MANIFEST,
                f"{identity} has had version {MAX_VERSION}, and no higher one can be: give it another name",
            )
        else:
            changes.append(Change(identity, following, manifest, "created" if latest is None else "updated"))
    return changes


def require_newest_read(catalogue: Catalogue, identity: Identity) -> None:
    """Raises Refusal(invalid_manifest) where the newest version cannot be read: nobody here knows what it says."""
    unread = catalogue.unread(identity)
    if unread and unread[-1].version > max(catalogue.versions(identity), default=0):
        newest = unread[-1]
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            f"version {newest.version} of {identity} cannot be read by this guideway ({newest.why}), so nothing is "
            "written over it: use the newer guideway that wrote it, or remove it with "
            f"`guideway delete {identity.kind} {identity.namespace}/{identity.name}@{newest.version}`",
        )


def plan_deletion(catalogue: Catalogue, identity: Identity, versions: Sequence[int]) -> list[Deletion]:
    """These versions go, and with them what is kept of earlier deletions and is not needed any more."""
    last = catalogue.last_given(identity)
    needless = [number for number in catalogue.kept_as_deleted(identity) if number < last and last in versions]
    return [Deletion(identity, number, kept=number == last) for number in [*versions, *needless]]


def catalogue_records(changes: Iterable[Change | Deletion]) -> list[tuple[bytes, bytes | None]]:
    """(key, value) of the catalogue topic's record for each change that changes something."""
    found: list[tuple[bytes, bytes | None]] = []
    for change in changes:
        key = change.identity.key(change.version)
        if isinstance(change, Deletion):
            found.append((key, CATALOGUE_ENTRY.encode(Deleted()) if change.kept else None))
        elif change.action != "unchanged":
            found.append((key, CATALOGUE_ENTRY.encode(change.manifest)))
    return found
