"""Bytes of a namespace in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.catalogue.artefacts.room import StoreRoom
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.manifests import Guidance, Manifest


def catalogue_of(*manifests: Manifest) -> Catalogue:
    return Catalogue().after(catalogue_records(plan_changes(Catalogue(), manifests)))


def lora(name: str, digest: str, namespace: str = "shop") -> Guidance:
    fingerprint = "sha256:" + "0" * 64
    return Guidance(namespace=namespace, name=name, form="lora", artefact=digest, model_fingerprint=fingerprint)


def files(weights: bytes) -> dict[str, bytearray]:
    return {"adapter_config.json": bytearray(b"{}"), "adapter_model.safetensors": bytearray(weights)}


def test_a_namespace_has_room_up_to_its_limit_and_is_told_the_numbers(tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path))
    first = store.of("shop").put(files(b"1" * 100))
    of_other = store.of("other").put(files(b"2" * 5000))
    limits = Namespace(namespace="public", name="shop", store_bytes=300)
    room = StoreRoom(store, catalogue_of(lora("a", first), lora("b", of_other, "other"), limits))
    room.put("shop", files(b"3" * 100))
    assert room.put("shop", files(b"1" * 100)) == first, "what it has already costs nothing"
    with pytest.raises(Refusal) as caught:
        room.put("shop", files(b"4" * 99))
    assert caught.value.code is FailureCode.NOT_ALLOWED
    assert "may have 300 bytes in the artefact store, 204 are taken and this artefact has 101:" in caught.value.message
    room.put("shop", files(b"5" * 94))
    room.put("other", files(b"6" * 10_000))


def test_an_artefact_that_is_not_in_the_store_takes_no_room(tmp_path: Path) -> None:
    assert ArtefactStore(str(tmp_path)).held_bytes(["sha256:" + "0" * 64]) == 0
