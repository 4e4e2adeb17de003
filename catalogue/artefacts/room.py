"""Whether a namespace has room for another artefact in the store."""

from __future__ import annotations

from collections import Counter

from guideway.catalogue.artefacts.contents import Contents, digest_of
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.limits import artefacts_of, limits_of
from guideway.schemas.failures import FailureCode, Refusal


class StoreRoom:
    """Puts artefacts into the store, as far as the limits of their namespaces allow.

    What counts are the artefacts of all versions of a namespace's guidance and retrieval sets. Artefacts of versions
    that were deleted do not count, though they are still there: whoever may write the store itself is bounded by the
    store's own rights and quotas.
    """

    def __init__(self, store: ArtefactStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._more: Counter[str] = Counter()
        """Namespace → bytes of the artefacts that were checked here, stored or not."""
        self._held: dict[str, set[str]] = {}
        """Namespace → digests of its artefacts, those that were checked here among them."""

    def put(self, namespace: str, files: Contents) -> str:
        """Store an artefact; returns its digest. Raises Refusal(not_allowed), and as `ArtefactStore.put`."""
        self.checked(namespace, files)
        return self._store.of(namespace).put(files)

    def checked(self, namespace: str, files: Contents) -> str:
        """The digest of an artefact for which there is room; nothing is stored. Raises Refusal(not_allowed)."""
        digest, limit = digest_of(files), limits_of(self._catalogue, namespace).store_bytes
        if limit is None:
            return digest
        held = self._held.setdefault(namespace, artefacts_of(self._catalogue, namespace))
        if digest not in held:
            known = artefacts_of(self._catalogue, namespace)
            used, more = (
                self._store.of(namespace).held_bytes(known) + self._more[namespace],
                sum(map(len, files.values())),
            )
            if used + more > limit:
                raise Refusal(
                    FailureCode.NOT_ALLOWED,
                    f"namespace {namespace} may have {limit:,} bytes in the artefact store, {used:,} are taken and "
                    f"this artefact has {more:,}: delete versions of guidance or sets, or ask the platform for a "
                    "higher limit",
                )
            held.add(digest)
            self._more[namespace] += more
        return digest
