"""What `apply` would say is said by a rollback and a promotion too, on a real broker."""

from __future__ import annotations

from pathlib import Path

import msgspec

from guideway.catalogue.documents.manifest_files import Source
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.kinds.router import Router, RoutingRule
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests
from guideway.usecases.studio.versions import promote, roll_back


async def test_what_apply_would_say_of_it_is_said(broker: RunningBroker, unique_name: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=broker.cluster)

    async def applied(*manifests: Manifest) -> None:
        await apply_manifests(settings, [Source(Path("a.yaml"), one) for one in manifests])

    model = Model(namespace="public", name=unique_name, source="/nowhere", fingerprint=f"sha256:{'3' * 64}")
    bare = Endpoint(namespace=unique_name, name="mood", model_size=unique_name, output=Text())
    described = msgspec.structs.replace(bare, description="Says how a text sounds.")
    candidate = msgspec.structs.replace(bare, name="mood-candidate", instruction="How? " * 3200)
    router = Router(
        namespace=unique_name, name="router", rules=[RoutingRule(when="text", endpoint=f"/{unique_name}/mood")]
    )
    await applied(model, bare)
    await applied(described, router, candidate)
    said: list[str] = []
    await roll_back(settings, f"/{unique_name}/mood", 1, said.append)
    [line] = said
    assert line.startswith(f"router {unique_name}/router does not fit with this any more: ")
    said.clear()
    await promote(settings, f"/{unique_name}/mood", anyway=True, told=said.append)
    [line] = said
    assert line.startswith(f"the instruction, text prompts and template of /{unique_name}/mood have 15,999 characters")
