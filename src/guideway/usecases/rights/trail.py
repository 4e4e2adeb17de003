"""A record of a catalogue topic, or of the topic of keys → what the audit trail says of it. Never content. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.identity import Identity, disagreement, of_key
from guideway.schemas.failures import FailureCode
from guideway.schemas.kinds.retrieval_set import RetrievalSet, SetAlias
from guideway.schemas.manifests import Deleted, Endpoint, Guidance, Manifest
from guideway.schemas.names import header
from guideway.schemas.names.addresses import NAME, PUBLIC
from guideway.schemas.names.service_topics import owner_of_catalogue
from guideway.schemas.record import Record
from guideway.schemas.services.audit import Action, Audited
from guideway.schemas.services.keys import KEY_ID
from guideway.schemas.wire import CATALOGUE_ENTRY, KEY, Undecodable


def trail(record: Record, catalogue: Catalogue, principals: Sequence[str]) -> list[Audited]:
    """What this record did.

    catalogue: has all that stands before the record; later ones change nothing. principals: who may write the topic.
    """
    told = partial(_told, record, principals)
    named = of_key(record.key)
    if named is None:
        # Whoever wrote it may have written anything: what is none of our names is not told.
        return [told("refused", "", code=FailureCode.INVALID_MANIFEST)]
    identity, version = named
    what, entry, unread = f"{identity}@{version}", None, False
    try:
        entry = None if record.value is None else CATALOGUE_ENTRY.decode(record.value)
    except Undecodable:
        unread = True
    if disagreement(record.topic, identity, entry):
        return [told("refused", what, code=FailureCode.NOT_ALLOWED)]
    if unread:
        return [told("refused", what, code=FailureCode.INVALID_MANIFEST)]
    if entry is None or isinstance(entry, Deleted):
        return [told("deleted", what)]
    earlier = _before(entry, version, catalogue)
    found = [told(_action(record, entry, earlier), what)]
    if new := sorted(_granted(entry) - _granted(earlier[-1] if earlier else None)):
        found.append(told("granted", what, to=new))
    return found


def trail_of_keys(record: Record, principals: Sequence[str]) -> Audited:
    """What this record of the topic of keys did. principals: who may write it."""
    told = partial(_told, record, principals)
    written = (record.key or b"").decode("utf-8", "replace")
    # Whoever wrote it may have written anything: what is no id is not told.
    key_id = written if KEY_ID.fullmatch(written) else ""
    if record.value is None:
        return told("deleted", f"key {key_id}")
    try:
        key = KEY.decode(record.value)
    except Undecodable:
        return told("refused", f"key {key_id}", code=FailureCode.INVALID_MANIFEST)
    if not key_id or key.id != key_id or not NAME.fullmatch(key.namespace):
        return told("refused", f"key {key_id}", code=FailureCode.INVALID_MANIFEST)
    what = f"key {key.namespace}/{key.id}"
    return told("granted", what, to=[key.namespace]) if key.revoked_ms is None else told("deleted", what)


def _told(
    record: Record,
    principals: Sequence[str],
    action: Action,
    what: str,
    *,
    to: Sequence[str] = (),
    code: FailureCode | None = None,
) -> Audited:
    return Audited(
        at_ms=record.timestamp_ms,
        service="steward",
        action=action,
        # The topic of keys is the platform's.
        namespace=owner_of_catalogue(record.topic) or PUBLIC,
        principal=", ".join(principals) or None,
        what=what,
        to=to,
        code=code,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


def _before(entry: Manifest, version: int, catalogue: Catalogue) -> list[Manifest]:
    """The versions before this one that are not deleted, in order."""
    identity = Identity.of(entry)
    found = [catalogue.get(identity, one) for one in catalogue.versions(identity) if one < version]
    return [one for one in found if one is not None]


def _action(record: Record, entry: Manifest, earlier: Sequence[Manifest]) -> Action:
    match entry:
        case Endpoint() if record.header(header.APPLIED_BY) == header.SHADOW.encode():
            return "promoted"
        case Endpoint() if entry in earlier[:-1]:
            return "rolled back"
        case Guidance() | RetrievalSet() | SetAlias():
            return "published"
    return "applied"


def _granted(entry: Manifest | None) -> frozenset[str]:
    """Namespaces that may use or call it."""
    granted = getattr(entry, "access", None) or getattr(entry, "shared_with", None)
    return frozenset(granted or ())
