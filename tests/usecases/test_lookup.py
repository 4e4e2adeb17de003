"""What is looked up by a wrong name is told with the right one."""

from __future__ import annotations

import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import EmbeddingModel, Endpoint, Model, RetrievalSet
from guideway.schemas.output import Boolean
from guideway.usecases.lookup import found_in, found_set, identity_of


@pytest.mark.parametrize(("given", "near"), [("shop/mod", "shop/mood"), ("shopp/mood", "shop/mood"), ("q/z", None)])
def test_a_wrong_name_is_told_with_the_right_one(given: str, near: str | None) -> None:
    catalogue = Catalogue()
    mood = Endpoint(namespace="shop", name="mood", model_size="small", output=Boolean())
    [(key, value)] = catalogue_records(plan_changes(catalogue, [mood]))
    catalogue.absorb(key, value)
    with pytest.raises(Refusal) as caught:
        found_in(catalogue, identity_of("endpoint", given))
    assert ("did you mean" in caught.value.message) == (near is not None)
    assert near is None or f"did you mean {near}?" in caught.value.message


def test_a_wrong_model_size_is_told_with_the_right_one() -> None:
    catalogue = Catalogue()
    [(key, value)] = catalogue_records(
        plan_changes(catalogue, [Model(namespace="public", name="medium", source="folder")])
    )
    catalogue.absorb(key, value)
    with pytest.raises(
        Refusal, match=r"no model size 'medum': did you mean medium\? name one that is there \(medium\)"
    ):
        catalogue.model("medum")
    with pytest.raises(Refusal, match=r"no model size 'large': name one that is there \(medium\), or apply a"):
        catalogue.model("large")


def test_a_wrong_set_is_told_with_the_right_one() -> None:
    catalogue = Catalogue()
    made = RetrievalSet(
        namespace="shop",
        name="handbook",
        artefact=f"sha256:{'0' * 64}",
        passages=1,
        embedding=EmbeddingModel(source="a", fingerprint=f"sha256:{'0' * 64}", dimension=3),
    )
    [(key, value)] = catalogue_records(plan_changes(catalogue, [made]))
    catalogue.absorb(key, value)
    with pytest.raises(Refusal, match=r"no retrieval set shop/handbok: did you mean shop/handbook\?"):
        found_set(catalogue, "shop/handbok")
    with pytest.raises(Refusal, match="no retrieval set shop/handbook@7: `guideway sets list` lists all"):
        found_set(catalogue, "shop/handbook@7")
