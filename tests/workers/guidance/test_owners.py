"""A digest is no right: what another namespace has put is not loaded, whatever this machine has on its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import read_fetched
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.guidance.artefact_fetch import ArtefactFetch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path / "adapter"


async def test_a_digest_of_anothers_is_missing(folder: Path, tmp_path: Path) -> None:
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.of("shop").put_folder(folder)
    fetch = ArtefactFetch(store, cache)
    for _ in range(2):
        with pytest.raises(Refusal, match="the artefact store lacks") as caught:
            async with fetch.held("rival", digest, "guidance rival/tone@1"):
                pass
        assert caught.value.code is FailureCode.GUIDANCE_MISSING
        assert "shop" not in caught.value.message
        # The second time it is in the cache, and in use.
        async with fetch.held("shop", digest, "guidance shop/tone@1") as there:
            assert read_fetched(there, digest)
            with pytest.raises(Refusal, match="the artefact store lacks"):
                async with fetch.held("rival", digest, "guidance rival/tone@1"):
                    pass


async def test_a_listing_alone_opens_nothing(folder: Path, tmp_path: Path) -> None:
    """Whoever has seen which files another's artefact has can write its listing, and not its files."""
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.of("shop").put_folder(folder)
    fetch = ArtefactFetch(store, cache)
    listing = (tmp_path / "store" / "shop" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    forged = tmp_path / "store" / "rival" / "sha256" / digest.removeprefix("sha256:")
    forged.parent.mkdir(parents=True)
    forged.write_bytes(listing)
    async with fetch.held("shop", digest, "guidance shop/tone@1"):
        with pytest.raises(Refusal) as caught:
            async with fetch.held("rival", digest, "guidance rival/tone@1"):
                pass
    assert caught.value.code is FailureCode.GUIDANCE_MISSING


async def test_whoever_has_put_the_same_has_it(folder: Path, tmp_path: Path) -> None:
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.of("shop").put_folder(folder)
    assert store.of("rival").put_folder(folder) == digest
    fetch = ArtefactFetch(store, cache)
    async with fetch.held("shop", digest, "a") as one, fetch.held("rival", digest, "b") as other:
        assert one != other
        assert read_fetched(one, digest) == read_fetched(other, digest)
