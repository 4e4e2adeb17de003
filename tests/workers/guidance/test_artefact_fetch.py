"""Artefacts of requests in flight: fetched once, kept while they are used, and fetched again where a copy changed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import Altered, read_fetched
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.guidance.artefact_fetch import ArtefactFetch

MakeArtefact = Callable[[str], str]


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(str(tmp_path / "store"))


@pytest.fixture
def make(store: ArtefactStore, tmp_path: Path) -> MakeArtefact:
    def make(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(name.encode() * 100)
        return store.of("team").put_folder(folder)

    return make


@pytest.fixture
def small(tmp_path: Path) -> ArtefactCache:
    return ArtefactCache(tmp_path / "cache", max_bytes=1)


async def test_what_a_request_in_flight_uses_stays(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache
) -> None:
    fetch = ArtefactFetch(store, small)
    a, b, c = make("a"), make("b"), make("c")
    async with fetch.held("team", a, "a") as folder, fetch.held("team", a, "a again"):
        async with fetch.held("team", b, "b") as other:
            pass
        async with fetch.held("team", c, "c"):
            assert read_fetched(folder, a)
            assert not other.exists()
    async with fetch.held("team", b, "b"):
        assert not folder.exists()


async def test_all_who_ask_wait_for_one_fetch_and_one_who_leaves_ends_it_for_nobody(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, fetched, may_fetch = make("a"), [], threading.Event()
    download = ArtefactStore._download

    def slowly(self: ArtefactStore, digest: str, folder: Path) -> None:
        fetched.append(digest)
        assert may_fetch.wait(30)
        download(self, digest, folder)

    monkeypatch.setattr(ArtefactStore, "_download", slowly)
    fetch = ArtefactFetch(store, small)

    async def use() -> None:
        async with fetch.held("team", a, "a") as folder:
            assert read_fetched(folder, a)

    leaver, first, second = (asyncio.create_task(use()) for _ in range(3))
    await asyncio.sleep(0)
    leaver.cancel()
    may_fetch.set()
    await asyncio.gather(first, second)
    assert fetched == [a]
    monkeypatch.undo()
    async with fetch.held("team", make("b"), "b"):
        assert not (small.folder / f"team.{a.removeprefix('sha256:')}").exists(), "nobody holds it any more"


async def test_a_failed_fetch_is_told_to_all_and_tried_again(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache, tmp_path: Path
) -> None:
    fetch, a = ArtefactFetch(store, small), make("a")
    blob = tmp_path / "store" / "team" / "sha256" / a.removeprefix("sha256:")
    listing = blob.read_bytes()
    blob.unlink()
    for _ in range(2):
        with pytest.raises(Refusal, match="guidance a: the artefact store lacks") as caught:
            async with fetch.held("team", a, "guidance a"):
                pass
        assert caught.value.code is FailureCode.GUIDANCE_MISSING
    blob.write_bytes(listing)
    async with fetch.held("team", a, "guidance a") as folder:
        assert read_fetched(folder, a)


async def test_a_copy_that_changed_is_fetched_again_once_for_all(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache
) -> None:
    fetch, a, uses = ArtefactFetch(store, small), make("a"), 0

    async def use(folder: Path) -> bytes:
        nonlocal uses
        uses += 1
        return bytes(read_fetched(folder, a)["adapter_model.safetensors"])

    async with fetch.held("team", a, "a") as folder:
        os.truncate(folder / "adapter_model.safetensors", 10)
        found = await asyncio.gather(*(fetch.with_good_copies(lambda: use(folder)) for _ in range(5)))
    assert found == [b"a" * 100] * 5
    assert uses == 10


async def test_a_copy_that_changed_is_damaged_where_the_stores_bytes_are(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache, tmp_path: Path
) -> None:
    fetch, a = ArtefactFetch(store, small), make("a")

    async def use(folder: Path) -> object:
        return read_fetched(folder, a)

    async with fetch.held("team", a, "a") as folder:
        os.truncate(folder / "adapter_config.json", 1)
        for blob in (tmp_path / "store" / "team" / "sha256").iterdir():
            blob.write_bytes(b"other")
        with pytest.raises(Refusal) as caught:
            await fetch.with_good_copies(lambda: use(folder))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


async def test_a_disk_that_alters_everything_is_given_up(
    store: ArtefactStore, make: MakeArtefact, small: ArtefactCache
) -> None:
    fetch, a, uses = ArtefactFetch(store, small), make("a"), 0

    async def use() -> None:
        nonlocal uses
        uses += 1
        raise Altered(a)

    async with fetch.held("team", a, "a"):
        with pytest.raises(Altered) as caught:
            await fetch.with_good_copies(use)
    assert (uses, caught.value.code) == (3, FailureCode.GUIDANCE_MISSING)
