"""What the catalogue says of a namespace, as far as topics and rights depend on it."""

from __future__ import annotations

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.limits import limits_of
from guideway.catalogue.targets.recipients import targets_of
from guideway.infra.rights.keeping import Declared
from guideway.usecases.rights.surveying import endpoints_of


def declared(catalogue: Catalogue, namespace: str) -> Declared:
    """Its endpoints and limits."""
    unread = [one.identity for one in catalogue.unread()]
    return Declared(
        namespace,
        endpoints_of(catalogue, namespace),
        unread=frozenset(one.name for one in unread if one.kind == "endpoint" and one.namespace == namespace),
        limits=limits_of(catalogue, namespace),
        targets=targets_of(catalogue, namespace),
    )
