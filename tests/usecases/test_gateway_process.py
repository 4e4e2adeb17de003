"""`guideway gateway` as a process, with tokens of an identity provider."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.http.serving import ground
from tests.producers.gateway.identity.test_tokens import CURVE, OTHER, Issuer, issuer, signed

from guideway.infra.local_broker import RunningBroker

__all__ = ["issuer"]  # the fixture


@pytest.mark.broker
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_tokens_are_asked_for_and_heeded_by_a_process(
    kind: str,
    broker_of_kind: Callable[[str], RunningBroker],
    issuer: Issuer,
    unique_name: str,
    tmp_path: Path,
) -> None:
    cluster, ns = broker_of_kind(kind).cluster, unique_name
    environ = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": cluster.brokers,
        "GUIDEWAY_HOME": str(tmp_path),
        "GUIDEWAY_JWT_ISSUER": "https://issuer.example",
        "GUIDEWAY_JWT_AUDIENCE": "guideway",
        "GUIDEWAY_JWT_KEYS_URL": issuer.url,
    }
    command = [sys.executable, "-m", "guideway", "gateway", "--port", "0", "--no-restart"]
    async with ground(cluster, ns):
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        try:
            assert process.stderr is not None
            async with asyncio.timeout(60):
                while (
                    found := re.search(r"listening at (http://\S+)", (await process.stderr.readline()).decode())
                ) is None:
                    assert process.returncode is None
            async with httpx.AsyncClient(base_url=found[1], timeout=60, trust_env=False) as client:

                async def call(token: str) -> httpx.Response:
                    headers = {"authorization": f"Bearer {token}", "content-type": "text/plain"}
                    return await client.post(f"/{ns}/mood", content="soup", headers=headers)

                for token in (signed(namespace=ns), signed(CURVE, "ES256", "e", namespace=ns)):
                    got = await call(token)
                    assert got.json()["samples"][0]["value"] == "soup"
                for token in (
                    signed(OTHER, namespace=ns),
                    signed(namespace=ns, exp=time.time() - 60),
                    signed(namespace=ns, aud="somebody"),
                    signed(namespace="health"),
                ):
                    got = await call(token)
                    assert (got.status_code, got.json()["code"]) == (401, "unauthenticated")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
