"""The paths of the HTTP door beside those of endpoints."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Router

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.app import make_app
from guideway.producers.gateway.http.paths import nowhere
from guideway.producers.gateway.http.problems import with_headers
from guideway.producers.gateway.http.rest import failed, ids_of
from guideway.producers.gateway.replies import Answer
from guideway.producers.gateway.status import DoorRefusal
from guideway.schemas.failures import FailureCode
from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES
from guideway.schemas.reply import Failed
from guideway.schemas.wire import REPLY


async def test_no_namespace_has_the_name_of_a_path() -> None:
    """Its endpoints could not be called over HTTP."""
    guard = make_app(Gateway(GatewaySettings(cluster=Cluster("nowhere:1"))))
    router = guard._app  # type: ignore[attr-defined]
    assert isinstance(router, Router)
    first = {str(route.path).split("/")[1] for route in router.routes}  # type: ignore[attr-defined]
    taken = {one for one in first if NAME.fullmatch(one)}
    assert {"v1", "v2", "health"} <= taken
    assert taken <= RESERVED_NAMESPACES


async def test_a_base_url_without_its_end_is_told_as_that() -> None:
    """In the member that the packages of OpenAI show."""
    nothing = Starlette(routes=[Mount("/", nowhere)])
    async with AsyncClient(transport=ASGITransport(nothing), base_url="http://door") as client:
        got = await client.get("/models")
        assert (got.status_code, "base_url that ends in /v1" in got.json()["error"]["message"]) == (404, True)
        with pytest.raises(DoorRefusal):
            await client.get("/shop")
    for namespace, name, is_told in (("chat", "completions", True), ("shop", "mood", False)):
        reply = Failed(
            id="1", namespace=namespace, endpoint=name, code=FailureCode.NOT_ALLOWED, message="no", retryable=False
        )
        told = failed(Answer(REPLY.encode(reply), "application/json", reply.code, f"/{namespace}/{name}"))
        assert (told.status_code, b"base_url" in bytes(told.body)) == (403, is_told)


@pytest.mark.parametrize("id_", ["order-17", "a/b?c#d%41 e", "é", "日本"])
def test_a_request_is_found_at_its_location_whatever_its_id(id_: str) -> None:
    told = with_headers(Response(), ids_of(id_, kept=True)).headers
    path = told["location"]
    assert path.isascii()
    assert not {"?", "#", " "} & {*path}
    assert unquote(path) == f"/v1/requests/{id_}"
    assert told.get("x-request-id") == (id_ if id_.isascii() else None)
    assert "location" not in ids_of(id_, kept=False)
