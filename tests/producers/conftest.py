"""Factories for records, endpoints and catalogues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.manifests import Endpoint, Guidance, Model
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.wire import MANIFEST

DIGEST = "sha256:" + "0" * 64
OTHER_DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(value: bytes | None = b'{"text": "hello"}', **headers: bytes | str) -> Record:
        return Record(
            topic="gw.team.task.in.v1",
            partition=0,
            offset=7,
            timestamp_ms=1,
            key=b"k",
            value=value,
            headers=[
                (name.replace("__", "-"), one.encode() if isinstance(one, str) else one)
                for name, one in headers.items()
            ],
        )

    return make


@pytest.fixture
def make_endpoint() -> Callable[..., Endpoint]:
    def make(**fields: Any) -> Endpoint:
        plain = Endpoint(namespace="team", name="task", model_size="small", output=Text())
        return msgspec.structs.replace(plain, **fields)

    return make


@pytest.fixture
def catalogue() -> Catalogue:
    made = Catalogue()
    tone = Guidance(namespace="team", name="tone", form="soft_prompt", artefact=DIGEST, model_fingerprint=DIGEST)
    for manifest in (
        Model(namespace="public", name="small", source="x", fingerprint=DIGEST),
        tone,
        msgspec.structs.replace(tone, namespace="other", name="secret"),
        msgspec.structs.replace(tone, namespace="other", name="lent", artefact=OTHER_DIGEST, shared_with=["team"]),
        Guidance(namespace="public", name="brief", form="text_prompt", text="Be brief."),
    ):
        made.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(1), MANIFEST.encode(manifest))
    return made
