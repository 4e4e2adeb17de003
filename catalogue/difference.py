"""What changes in the catalogue, for people. Pure."""

from __future__ import annotations

import difflib

import msgspec

from guideway.catalogue.changes import Change
from guideway.catalogue.documents.yaml_text import as_yaml
from guideway.catalogue.entries import Identity
from guideway.schemas.manifests import Manifest


def written(manifest: Manifest) -> str:
    """A manifest as YAML that `apply` accepts, without the fields that have their default."""
    return as_yaml(msgspec.to_builtins(manifest))


def difference(change: Change, before: tuple[int, Manifest] | None) -> list[str]:
    """The lines of a unified diff from the present version to the next one; empty if unchanged."""
    if change.action == "unchanged":
        return []
    identity = Identity.of(change.manifest)
    old, name = ("", "nothing") if before is None else (written(before[1]), f"{identity}@{before[0]}")
    new = written(change.manifest).splitlines()
    return [*difflib.unified_diff(old.splitlines(), new, name, f"{identity}@{change.version}", lineterm="")]
