"""What trials could not be applied for is said before rows are drawn and anything is sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.entries import Catalogue
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Choice
from guideway.settings import Settings
from guideway.usecases.replay import run, shadow_order

SMALL = Model(
    namespace="public", name="small", source="hub/small", fingerprint="sha256:" + "2" * 64, max_context_tokens=1024
)
LARGE = msgspec.structs.replace(SMALL, name="large", source="hub/large", fingerprint="sha256:" + "3" * 64)
SOFT = Guidance(
    namespace="shop", name="soft", form="soft_prompt", artefact="sha256:" + "1" * 64, virtual_tokens=4,
    model_fingerprint=SMALL.fingerprint,
)  # fmt: skip
MOOD = Endpoint(
    namespace="shop", name="mood", model_size="small", guidance=["shop/soft"], output=Choice(["glad", "sad"])
)


@pytest.mark.parametrize(
    ("models", "says"), [([SMALL], "there is no model size 'large'"), ([SMALL, LARGE], "was trained on another base")]
)
async def test_a_model_size_that_is_not_there_or_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[Model], says: str
) -> None:
    made = Catalogue()
    manifests: list[Manifest] = [*models, SOFT, MOOD]
    for one in manifests:
        for record in catalogue_records(plan_changes(made, [one])):
            made.absorb(*record)

    async def found(_: Settings) -> Catalogue:
        return made

    for module in (run, shadow_order):
        monkeypatch.setattr(module, "catalogue_of", found)
    settings, changes = Settings(home=tmp_path, store=str(tmp_path / "store")), {"model_size": "large"}
    with pytest.raises(Faulty, match=says):
        await run.begin(settings, run.Order(address="/shop/mood", source="archive", changes=changes), None)
    with pytest.raises(Faulty, match=says):
        await shadow_order.begin(settings, shadow_order.ShadowOrder(address="/shop/mood", changes=changes), None)
    assert not (tmp_path / "replays").exists()
    assert not (tmp_path / "shadows").exists()
