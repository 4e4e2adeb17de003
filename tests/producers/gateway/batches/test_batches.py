"""Files and batches over real connections, with the official client, a broker and a batcher; answers are made up."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest
import pytest_asyncio
from openai.types import Batch
from tests.conftest import ONE_OF_KINDS
from tests.producers.batch.stand_in import Answering, answering, batcher
from tests.producers.gateway.http.serving import Door, door, ground

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.writing import publish
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.batch.folder import JobFolder
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.broker]
SHOP, DESK, BARE = "shop", "desk", "bare"
WRITE = Endpoint(namespace=SHOP, name="write", model_size="small", output=Text())
FIRST = Endpoint(namespace=SHOP, name="first", model_size="small", output=Text())
MOST_FILE_BYTES, MOST_FILES = 200_000, 30


class Stage(NamedTuple):
    door: Door
    store: Path
    answers: Answering
    other: Door
    """Another gateway."""

    def client(self, namespace: str = SHOP) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.door.port}/v1", api_key=self.door.keys[namespace], max_retries=0
        )  # fmt: skip

    async def call(self, method: str, path: str, namespace: str = SHOP, **more: Any) -> httpx.Response:
        headers = self.door.as_(namespace) | more.pop("headers", {})
        return await self.door.client.request(method, path, headers=headers, **more)

    async def upload(
        self, data: bytes, name: str = "rows.jsonl", namespace: str = SHOP, **fields: str
    ) -> httpx.Response:
        form = {"purpose": "batch"} | fields
        return await self.call("POST", "/v1/files", namespace, files={"file": (name, data)}, data=form)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ONE_OF_KINDS)
async def stage(
    request: pytest.FixtureRequest,
    broker_of_kind: Callable[[str], RunningBroker],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    cluster, store = broker_of_kind(request.param).cluster, tmp_path_factory.mktemp("store")
    async with contextlib.AsyncExitStack() as stack:
        _, keys = await stack.enter_async_context(ground(cluster, SHOP, DESK, BARE))
        await make_topics(cluster, [*topics.catalogues([SHOP]), *topics.batches(DESK)])
        await publish(cluster, plan_changes(Catalogue(), [WRITE, FIRST]))
        answers = await stack.enter_async_context(answering(cluster, SHOP))
        await stack.enter_async_context(batcher(cluster, store))
        limits = {
            "store": str(store),
            "max_file_bytes": MOST_FILE_BYTES,
            "max_files": MOST_FILES,
            "body_timeout_s": 2.0,
        }
        doors = [await stack.enter_async_context(door(cluster, keys, **limits)) for _ in range(2)]
        yield Stage(doors[0], store, answers, doors[1])


def row(id_: str, text: str, model: str = "shop/write") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return (
        json.dumps({"custom_id": id_, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode() + b"\n"
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(60):
        while batch.status not in ("completed", "failed", "expired", "cancelled"):
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    return batch


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


async def test_the_official_clients_batch_example(stage: Stage) -> None:
    rows = (
        row("a", "Hello") + row("b", "Is it?", "shop/first") + row("c", "x", "desk/none") + b"{\n" + row("a", "Again")
    )
    async with stage.client() as client:
        file = await client.files.create(file=("requests.jsonl", rows), purpose="batch")
        assert (file.bytes, file.filename, file.status) == (len(rows), "requests.jsonl", "processed")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "nightly"}
        )
        assert (batch.status, batch.metadata, batch.input_file_id) == ("validating", {"for": "nightly"}, file.id)
        batch = await ended(client, batch)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.model_dump() == {"total": 5, "completed": 2, "failed": 3}
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        output = lines((await client.files.content(batch.output_file_id)).content)
        errors = lines((await client.files.content(batch.error_file_id)).content)
        assert (await client.files.retrieve(batch.output_file_id)).purpose == "batch_output"
        assert (await client.batches.list(limit=1)).data[0].id == batch.id
    told = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in output}
    assert told == {"a": "HELLO", "b": "IS IT?"}
    assert [(one["custom_id"], one["line"], one["response"]["body"]["error"]["code"]) for one in errors] == [
        ("c", 3, "model_not_found"),
        (None, 4, "undecodable_event"),
        ("a", 5, "duplicate_id"),
    ]
    assert [one["response"]["body"]["error"]["param"] for one in errors] == ["model", None, None]


async def test_files_of_results_say_how_long_they_stay_and_can_be_deleted(stage: Stage) -> None:
    async with stage.client() as client:
        file = await client.files.create(file=("rows.jsonl", row("a", "Hello")), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await ended(client, batch)
        assert batch.output_file_id is not None
        results = await client.files.retrieve(batch.output_file_id)
        assert results.expires_at == results.created_at + 30 * 86_400
        assert (await client.files.delete(results.id)).deleted
        for again in (client.files.content, client.files.retrieve, client.files.delete):
            with pytest.raises(openai.NotFoundError, match=results.id):
                await again(results.id)
        assert (await client.batches.retrieve(batch.id)).status == "completed"
    with pytest.raises(openai.NotFoundError):
        async with stage.client(DESK) as client:
            await client.files.delete(results.id)


async def test_a_csv_for_one_endpoint(stage: Stage) -> None:
    async with stage.client() as client:
        packed = gzip.compress(b"id,text\n1,Good\n2,Bad\n")
        file = await client.files.create(file=("rows.csv.gz", packed), purpose="batch")
        asked: Any = {"endpoint": "/shop/write", "completion_window": "2h"}
        batch = await client.batches.create(input_file_id=file.id, **asked)
        batch = await ended(client, batch)
        assert (batch.status, batch.error_file_id, batch.endpoint) == ("completed", None, "/shop/write")
        assert batch.output_file_id is not None
        output = lines((await client.files.content(batch.output_file_id)).content)
    assert {one["id"]: one["value"] for one in output} == {"1": "GOOD", "2": "BAD"}


async def test_a_batch_that_is_cancelled(stage: Stage) -> None:
    async with stage.client() as client:
        file = await client.files.create(file=("rows.jsonl", row("a", "!wait")), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        # Else the batcher waits for the reply that may still come.
        stage.answers.held.set()
        batch = await ended(client, batch)
        assert batch.status == "cancelled"
        assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_files_are_listed_read_and_deleted(stage: Stage) -> None:
    async with stage.client(DESK) as client:
        made = [await client.files.create(file=(f"{n}.jsonl", b"{}\n"), purpose="batch") for n in range(3)]
        assert [one.id async for one in client.files.list(limit=2)].sort() == [one.id for one in made].sort()
        assert (await client.files.retrieve(made[0].id)).filename == "0.jsonl"
        assert (await client.files.content(made[1].id)).content == b"{}\n"
        for one in made:
            assert (await client.files.delete(one.id)).deleted
        with pytest.raises(openai.NotFoundError, match="has no file"):
            await client.files.retrieve(made[0].id)
        assert not [one async for one in client.files.list()]


async def test_the_same_key_is_one_batch(stage: Stage) -> None:
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    key = {"idempotency-key": "once"}
    first = await stage.call("POST", "/v1/batches", json=asked, headers=key)
    again = await stage.call("POST", "/v1/batches", json=asked, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["id"] == again.json()["id"]
    other = await stage.call("POST", "/v1/batches", json=asked | {"completion_window": "1h"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


async def test_a_request_that_is_sent_again_while_its_batch_is_made_makes_no_second_one(stage: Stage) -> None:
    """Clients send a request again when they have waited too long."""
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = await asyncio.gather(*(stage.call("POST", "/v1/batches", json=asked) for _ in range(3)))
    assert [one.status_code for one in made] == [200] * 3
    assert len({one.json()["id"] for one in made}) == 1
    later = await stage.call("POST", "/v1/batches", json=asked)
    assert later.json()["id"] != made[0].json()["id"]


async def test_two_gateways_that_are_asked_with_one_key_make_one_batch(stage: Stage) -> None:
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    headers = stage.door.as_(SHOP) | {"idempotency-key": "both"}
    made = await asyncio.gather(
        *(one.client.post("/v1/batches", json=asked, headers=headers) for one in (stage.door, stage.other) * 2)
    )
    assert [one.status_code for one in made] == [200] * 4
    assert len({one.json()["id"] for one in made}) == 1
    async with stage.client() as client:
        assert (await ended(client, await client.batches.retrieve(made[0].json()["id"]))).status == "completed"


async def test_of_two_files_with_one_key_at_two_gateways_one_is_answered_and_the_other_refused(stage: Stage) -> None:
    """Both once wrote their rows into one job, which failed for whoever was first."""
    files = [(await stage.upload(row("a", text))).json()["id"] for text in ("Hello", "Bye")]
    asked = [{"input_file_id": one, "endpoint": "/v1/chat/completions", "completion_window": "24h"} for one in files]
    for number in range(3):
        headers = stage.door.as_(SHOP) | {"idempotency-key": f"one of two {number}"}
        made = await asyncio.gather(
            *(
                door.client.post("/v1/batches", json=one, headers=headers)
                for door, one in zip((stage.door, stage.other), asked, strict=True)
            )
        )
        (good,), (refused,) = ([one for one in made if (one.status_code == 200) is wanted] for wanted in (True, False))
        code = refused.json()["error"]["code"]
        assert (refused.status_code, code) in [(409, "idempotency_key_in_use"), (422, "idempotency_key_reused")]
        async with stage.client() as client:
            batch = await ended(client, await client.batches.retrieve(good.json()["id"]))
            assert (batch.status, batch.request_counts.completed if batch.request_counts else 0) == ("completed", 1)
            assert batch.output_file_id is not None
            (line,) = lines((await client.files.content(batch.output_file_id)).content)
        text = ("HELLO", "BYE")[files.index(good.json()["input_file_id"])]
        assert line["response"]["body"]["choices"][0]["message"]["content"] == text


async def test_a_batch_is_seen_at_every_gateway_before_its_file_is_read(stage: Stage) -> None:
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = (await stage.call("POST", "/v1/batches", json=asked)).json()
    got = await stage.other.client.get(f"/v1/batches/{made['id']}", headers=stage.door.as_(SHOP))
    assert (got.status_code, got.json()["id"], got.json()["created_at"]) == (200, made["id"], made["created_at"])
    listed = (await stage.other.client.get("/v1/batches", headers=stage.door.as_(SHOP))).json()["data"]
    assert [one["id"] for one in listed].count(made["id"]) == 1
    assert listed[0]["id"] == made["id"]


async def test_a_key_of_long_ago_does_not_bring_the_results_of_then(stage: Stage) -> None:
    """What became of that job may still be known when the job itself is listed no more."""
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    id_ = f"batch-{hashlib.sha256(b'shop/monthly').hexdigest()[:32]}"
    JobFolder(str(stage.store), SHOP, id_).owner("gw.shop.batch.v1/0/0/1")
    made = await stage.call("POST", "/v1/batches", json=asked, headers={"idempotency-key": "monthly"})
    assert (made.status_code, made.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert "which is listed no more" in made.json()["error"]["message"]


@pytest.mark.parametrize(("more", "param", "why"), [
    ({"input_file_id": "file-" + "0" * 32}, "input_file_id", "has no file"),
    ({"input_file_id": "../desk/x"}, "input_file_id", "has no file"),
    ({"endpoint": "/v1/embeddings"}, "endpoint", "is none: write"),
    ({"completion_window": "8d"}, "completion_window", "at most 7 days"),
    ({"completion_window": "soon"}, "completion_window", "such as '24h'"),
    ({"metadata": {"a" * 65: "b"}}, "metadata", "shorten"),
    ({"metadata": {"": "b"}}, "metadata", "names of 1 to 64"),
    ({"metadata": {f"{n}": "b" for n in range(17)}}, "metadata", "at most 16"),
    ({"metadata": {"a": 1}}, None, "Expected `str`"),
    ({"more": 1}, None, "unknown field `more`"),
])  # fmt: skip
async def test_a_batch_that_cannot_be_made(stage: Stage, more: dict[str, Any], param: str | None, why: str) -> None:
    asked = {"input_file_id": "file-", "endpoint": "/v1/chat/completions", "completion_window": "24h"} | more
    if "input_file_id" not in more:
        asked["input_file_id"] = (await stage.call("GET", "/v1/files")).json()["data"][0]["id"]
    got = await stage.call("POST", "/v1/batches", json=asked)
    assert got.status_code == 400
    assert why in got.json()["error"]["message"]
    assert got.json()["error"]["param"] == param


@pytest.mark.parametrize(("data", "name", "why"), [
    (row("a", "x", "desk/none"), "rows.jsonl", "the only row would fail, so nothing is sent. line 1: the model"),
    (b"[{}]", "rows.jsonl", "is one JSON array"),
    (b"\n\n", "rows.jsonl", "has no rows"),
    (b"id,text\n1,a\n", "rows.csv", "does not say which endpoint its rows are for"),
    (gzip.compress(row("a", "x") * 99)[:-9], "rows", "is damaged or was not copied whole"),
])  # fmt: skip
async def test_a_file_of_which_no_row_can_be_answered(stage: Stage, data: bytes, name: str, why: str) -> None:
    file = (await stage.upload(data, name)).json()["id"]
    async with stage.client() as client:
        asked: Any = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await client.batches.create(**asked)
        assert batch.status == "validating"
        batch = await ended(client, batch)
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert why in str(batch.errors.data[0].message)
        assert batch.errors.data[0].param == "input_file_id"
        assert (await client.batches.list(limit=1)).data[0].id == batch.id
        assert (await client.batches.cancel(batch.id)).status == "failed"
        await client.files.delete(file)


async def test_a_file_whose_name_tells_that_it_cannot_be_read_is_refused_at_once(stage: Stage) -> None:
    file = (await stage.upload(b"PK\x03\x04", "rows.xlsx")).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    got = await stage.call("POST", "/v1/batches", json=asked)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "input_file_id")
    assert "an Excel file: save it as CSV" in got.json()["error"]["message"]
    assert (await stage.call("DELETE", f"/v1/files/{file}")).status_code == 200


async def test_a_namespace_without_topics_for_batches(stage: Stage) -> None:
    file = (await stage.upload(b"id,text\n1,a\n", "rows.csv", BARE)).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/shop/write", "completion_window": "24h"}
    got = await stage.call("POST", "/v1/batches", BARE, json=asked)
    assert (got.status_code, got.json()["error"]["code"]) == (503, "invalid_setting")
    assert (await stage.call("GET", "/v1/batches", BARE)).json()["data"] == []


# Attacks --------------------------------------------------------------------------------------------------------------


async def test_what_another_namespace_has_is_not_there(stage: Stage) -> None:
    file = (await stage.upload(row("a", "Hello"))).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await stage.call("POST", "/v1/batches", json=asked)).json()
    paths = [("GET", f"/v1/files/{file}"), ("GET", f"/v1/files/{file}/content"), ("DELETE", f"/v1/files/{file}"),
             ("GET", f"/v1/batches/{batch['id']}"), ("POST", f"/v1/batches/{batch['id']}/cancel"),
             ("GET", f"/v1/files/file-{batch['id']}-output/content")]  # fmt: skip
    for method, path in paths:
        got = await stage.call(method, path, DESK)
        assert (got.status_code, got.json()["error"]["code"]) == (404, "unknown_request")
    never = (await stage.call("GET", "/v1/files/file-" + "1" * 32, DESK)).json()["error"]
    theirs = (await stage.call("GET", f"/v1/files/{file}", DESK)).json()["error"]
    assert theirs == never | {"message": never["message"].replace("file-" + "1" * 32, file)}
    assert (await stage.call("POST", "/v1/batches", DESK, json=asked)).status_code == 400
    assert (await stage.call("GET", "/v1/batches", DESK)).json()["data"] == []
    assert (await stage.call("GET", f"/v1/files/{file}")).status_code == 200


@pytest.mark.parametrize("id_", [
    "..%2fdesk%2ffile-0", "%2e%2e", "file-..", "../../batch.v1", "file-" + "0" * 31 + "%00", "file-" + "A" * 32,
    "file-a-output%2f..%2f..", "file-" + "a" * 70 + "-output", "file--output", "file-a-owner",
])  # fmt: skip
async def test_an_id_is_no_path(stage: Stage, id_: str) -> None:
    for end in ("", "/content"):
        raw = await stage.door.raw(
            f"GET /v1/files/{id_}{end} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stage.door.keys[SHOP]}\r\n"
            "connection: close\r\n\r\n".encode()
        )
        assert raw.startswith(b"HTTP/1.1 404")


async def test_a_file_that_is_too_large_is_not_read_to_its_end(stage: Stage) -> None:
    got = await stage.upload(b"a" * (MOST_FILE_BYTES + 1))
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")

    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            yield b"a" * 65_536

    kind = {"content-type": "multipart/form-data; boundary=x"}
    with contextlib.suppress(httpx.TransportError):
        got = await stage.call("POST", "/v1/files", content=endless(), headers=kind)
        assert got.status_code == 413


async def test_a_file_that_comes_too_slowly_is_given_up(stage: Stage) -> None:
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stage.door.keys[SHOP]}\r\n"
        "content-type: multipart/form-data; boundary=x\r\ncontent-length: 100000\r\n\r\n--x\r\n"
    )
    assert b"the file did not come in time" in await stage.door.raw(head.encode())


async def test_half_a_form_is_no_file(stage: Stage) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"half":'
    there = len((await stage.call("GET", "/v1/files")).json()["data"])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    got = await stage.call("POST", "/v1/files", content=form, headers=kind)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "file")
    assert len((await stage.call("GET", "/v1/files")).json()["data"]) == there


@pytest.mark.parametrize(("kind", "body", "status"), [
    ("application/json", b"{}", 415),
    ("multipart/form-data", b"", 400),
    ("multipart/form-data; boundary=" + "a" * 300, b"--a\r\n", 400),
    ("multipart/form-data; boundary=x", b"no form", 400),
    ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data\r\n\r\na\r\n--x--\r\n", 400),
    ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: " + b"b" * 150_000 + b"\r\n\r\na\r\n--x--\r\n", 400),
    ("multipart/form-data; boundary=x; charset=utf-7", b"--x--\r\n", 400),
    ("multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n'
     b'--x\r\ncontent-disposition: form-data; name="file"; filename="b"\r\n\r\nb\r\n--x--\r\n', 400),
])  # fmt: skip
async def test_games_with_content_types(stage: Stage, kind: str, body: bytes, status: int) -> None:
    got = await stage.call("POST", "/v1/files", content=body, headers={"content-type": kind})
    assert got.status_code == status
    assert "error" in got.json()


@pytest.mark.parametrize(("fields", "name", "param"), [
    ({"purpose": "assistants"}, "a.jsonl", "purpose"),
    ({"more": "1"}, "a.jsonl", "more"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, "a.jsonl", "expires_after"),
    ({}, "a" * 300, "file"),
])  # fmt: skip
async def test_a_form_that_asks_for_something_else(stage: Stage, fields: dict[str, str], name: str, param: str) -> None:
    got = await stage.upload(b"{}", name, **fields)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


async def test_a_form_without_a_purpose_is_told_that_it_is_missing(stage: Stage) -> None:
    got = await stage.call("POST", "/v1/files", files={"file": ("a.jsonl", b"{}")})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "purpose")
    assert got.json()["error"]["message"].startswith("purpose is missing")


async def test_a_file_that_expires(stage: Stage) -> None:
    more = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    got = (await stage.upload(b"{}", namespace=DESK, **more)).json()
    assert got["expires_at"] == pytest.approx(got["created_at"] + 3600, abs=2)
    about = stage.store / "files.v1" / DESK / f"{got['id']}.json"
    about.write_bytes(about.read_bytes().replace(str(got["expires_at"]).encode(), b"1000000000"))
    assert (await stage.call("GET", f"/v1/files/{got['id']}", DESK)).status_code == 404
    assert (await stage.upload(b"{}", namespace=DESK)).status_code == 200
    assert not about.exists()


async def test_a_namespace_has_so_many_files(stage: Stage) -> None:
    there = (await stage.call("GET", "/v1/files", DESK)).json()["data"]
    for _ in range(MOST_FILES - len(there)):
        assert (await stage.upload(b"{}", namespace=DESK)).status_code == 200
    got = await stage.upload(b"{}", namespace=DESK)
    assert (got.status_code, got.json()["error"]["code"]) == (429, "too_many_requests")
    assert "delete some with DELETE /v1/files/ID" in got.json()["error"]["message"]


async def test_nothing_is_told_to_who_is_nobody(stage: Stage) -> None:
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/batches"), ("POST", "/v1/batches")):
        got = await stage.door.client.request(method, path)
        assert (got.status_code, got.json()["error"]["code"]) == (401, "unauthenticated")
