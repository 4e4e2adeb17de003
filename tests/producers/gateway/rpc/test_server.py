"""The gRPC server on a real broker, as clients of several kinds meet it. Events are answered without a model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.rpc.serving import ENDPOINTS, Door, failure, running, until
from tests.rooms import ROOT

from guideway.infra.local_broker import RunningBroker
from guideway.producers.gateway.http.server import HttpServer, Listen, listening
from guideway.producers.gateway.rpc import server as server_module
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.protobuf.messages import FOLDER, message

EXAMPLE = ROOT / "examples/clients/grpc_python/client.py"


@pytest.fixture(scope="module", params=ONE_OF_KINDS)
def broker(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """A broker of one kind, unless all are asked for."""
    return broker_of_kind(request.param)


async def test_our_own_service(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name) as door:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        call = door.run(event={"text": "good é"}, metadata=(("traceparent", trace),))
        reply = (await call).reply
        assert reply.completed.samples[0].value.string_value == "good é"
        assert (reply.namespace, reply.endpoint) == ("shop", "mood")
        assert dict(await call.initial_metadata())["x-request-id"] == reply.id
        [record] = door.services.seen
        assert record.header(header.ENDPOINT) == b"/shop/mood"
        assert record.header("traceparent") == trace.encode()
        assert record.header(header.CONTENT_TYPE) == b"text/plain"
        assert record.header(header.DEADLINE) is not None

        # Of an id it is known what became of it, and it is done once.
        held, request_id = await door.begun({"text": "hold", "id": "order-17"})
        assert request_id == "order-17"
        found = await door.other("Get", id="order-17")
        assert found.in_progress.endpoint == "/shop/mood"
        door.services.release()
        assert (await held).reply.id == "order-17"
        assert (await door.other("Get", id="order-17")).reply.completed.samples[0].text == "hold"
        assert (await door.run(event={"text": "hold", "id": "order-17"})).reply.id == "order-17"
        assert door.services.times["order-17"] == 1
        code, reason, message_ = await failure(door.run(event={"text": "another", "id": "order-17"}))
        assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
        assert message_.startswith("this id was used with another event"), "of a key, nobody has said anything"
        await door.other("Cancel", id="order-17")
        code, reason, message_ = await failure(door.other("Get", id="order-18"))
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REQUEST")
        assert "give the event its `id`" in message_

        once = await asyncio.gather(*[door.run(event={"text": "x"}, metadata=(("idempotency-key", '"k"'),))] * 3)
        assert len({one.reply.id for one in once}) == 1
        assert door.services.times[once[0].reply.id] == 1

        stream = door.stream()
        asked = message("guideway.v1.RunStreamRequest")(event={"endpoint": "/shop/mood", "text": "tell abc def"})
        *pieces, last = [part async for part in stream(asked, metadata=door.metadata, timeout=30)]
        assert last.reply.completed.samples[0].text == "tell abc def"
        attempt = max(part.partial.attempt for part in pieces)
        told = [part.partial for part in pieces if part.partial.attempt == attempt]
        assert "".join(piece.text for piece in told) == "tell abc def"
        assert [piece.number for piece in told] == [*range(len(told))]
        asked.event.text = "fail no_route"
        with pytest.raises(aio.AioRpcError) as raised:
            [part async for part in stream(asked, metadata=door.metadata, timeout=30)]
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_fails_says_why(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name, max_body_bytes=100_000) as door:
        code, reason, said = await failure(door.run(event={"text": "fail text_too_long"}))
        assert (code, reason, said) == (grpc.StatusCode.INVALID_ARGUMENT, "TEXT_TOO_LONG", "change it")
        run = (f"{ENDPOINTS}Run", "guideway.v1.RunRequest", "guideway.v1.RunResponse")
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            code, reason, _ = await failure(door.call(*run, {"event": {"text": "x"}}, metadata=metadata))
            assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        code, reason, said = await failure(door.call(*run, b"\n\4\x1a\2\xff\xff"))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_EVENT")
        assert "UTF-8" in said
        # {event: {fields: {a: [[[…]]]}}}, deeper than any reader goes.
        value = b"\x11" + b"\0" * 8
        for _ in range(200):
            value = b"\n" + varint(len(value)) + value
            value = b"\x32" + varint(len(value)) + value
        entry = b"\n\1a\x12" + varint(len(value)) + value
        fields = b"\n" + varint(len(entry)) + entry
        event = b"\x12" + varint(len(fields)) + fields
        code, reason, _ = await failure(door.call(*run, b"\n" + varint(len(event)) + event))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_EVENT")
        code, _, _ = await failure(door.run(event={"text": "x" * 200_000}))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        code, _, _ = await failure(door.call(f"{ENDPOINTS}Walk", *run[1:], {}))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        code, _, _ = await failure(door.run(event={"text": "hold"}, timeout=0.001))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await door.run(event={"text": "years"}, timeout=3e8)).reply.completed.samples[0].text == "years"

        # Whoever hangs up has the work cancelled; whoever gave it an id has not.
        for given, cancelled in (({"text": "hold"}, True), ({"text": "hold", "id": "kept"}, False)):
            call, request_id = await door.begun(given)
            call.cancel()
            if cancelled:
                await until(functools.partial(door.services.cancelled.__contains__, request_id))
        assert "kept" not in door.services.cancelled
        asked = message("guideway.v1.RunStreamRequest")(event={"endpoint": "/shop/mood", "text": "hold"})
        call = door.stream()(asked, metadata=door.metadata, timeout=30)
        request_id = dict(await call.initial_metadata())["x-request-id"]
        call.cancel()
        await until(functools.partial(door.services.cancelled.__contains__, request_id))
        assert (await door.other("Get", id="kept")).HasField("in_progress")


def varint(number: int) -> bytes:
    made = b""
    while number > 0x7F:
        made += bytes([number & 0x7F | 0x80])
        number >>= 7
    return made + bytes([number])


async def test_tritons_client(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name) as door:
        place = f"127.0.0.1:{door.server.port}"
        headers = dict(door.metadata)
        name = f"{unique_name}/mood"
        async with triton.InferenceServerClient(place) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert (await client.get_server_metadata()).name == "guideway"
            assert await client.is_model_ready(name, headers=headers)
            assert not await client.is_model_ready(f"{unique_name}/none", headers=headers)
            assert not await client.is_model_ready(name, "2", headers=headers)
            told = await client.get_model_metadata(name, headers=headers, as_json=True)
            assert told["inputs"] == [
                {"name": "text", "datatype": "BYTES", "shape": ["-1"]},
                {"name": "count", "datatype": "INT64", "shape": ["-1"]},
            ]
            texts, counts = triton.InferInput("text", [2], "BYTES"), triton.InferInput("count", [2], "INT64")
            texts.set_data_from_numpy(np.array([b"good", "é".encode()], dtype=np.object_))
            counts.set_data_from_numpy(np.array([2**60, 1], dtype=np.int64))
            result = await client.infer(name, [texts, counts], model_version="1", request_id="7", headers=headers)
            rows = [msgspec.json.decode(one) for one in result.as_numpy("text")]
            assert rows == [{"text": "good", "count": 2**60}, {"text": "é", "count": 1}]
            assert result.get_response().id == "7"
            assert result.get_response().model_version == "1"
            assert len(door.services.seen) == 2

            many = triton.InferInput("text", [10_000], "BYTES")
            many.set_data_from_numpy(np.array([b"x"] * 10_000, dtype=np.object_))
            with pytest.raises(triton.InferenceServerException, match="has 10000 rows, and 1 to 128"):
                await client.infer(name, [many], headers=headers)
            with pytest.raises(triton.InferenceServerException, match="has version 1 now, and version '2'"):
                await client.infer(name, [texts], model_version="2", headers=headers)
            with pytest.raises(triton.InferenceServerException, match="parameter 'priority' means nothing here"):
                await client.infer(name, [texts], priority=1, headers=headers)
            with pytest.raises(triton.InferenceServerException, match="say who calls"):
                await client.infer(name, [texts])

        # Typed contents, and a row that fails.
        request = {
            "model_name": name.replace("/", "."),
            "inputs": [
                {
                    "name": "text",
                    "datatype": "BYTES",
                    "shape": [3],
                    "contents": {"bytes_contents": [b"a", b"b", b"c"]},
                }
            ],
        }
        infer = ("/inference.GRPCInferenceService/ModelInfer", "inference.ModelInferRequest")
        answer = await door.call(*infer, "inference.ModelInferResponse", request)
        assert [msgspec.json.decode(one)["text"] for one in answer.outputs[1].contents.bytes_contents] == [*"abc"]


async def test_health_reflection_and_the_end(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name) as door:
        health = health_pb2_grpc.HealthStub(door.channel)
        for service in ("", "guideway.v1.Endpoints", "inference.GRPCInferenceService"):
            checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        for version in ("v1", "v1alpha"):
            ask = door.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            questions = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="guideway.v1.Endpoints"),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
            ]
            listed, ours, healths = [one async for one in ask(iter(questions))]
            assert {one.name for one in listed.list_services_response.service} == {
                "guideway.v1.Endpoints",
                "inference.GRPCInferenceService",
                "grpc.health.v1.Health",
            }
            assert len(ours.file_descriptor_response.file_descriptor_proto) == 4
            assert len(healths.file_descriptor_response.file_descriptor_proto) == 1

        # The end: health says so, what runs is finished, nothing new begins.
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        held, _ = await door.begun({"text": "hold"})
        door.server.stop()
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watched.cancel()
        code, _, _ = await failure(door.run(event={"text": "late"}))
        assert code is grpc.StatusCode.UNAVAILABLE
        door.services.release()
        assert (await held).reply.completed.samples[0].text == "hold"


async def test_clients_that_send_nothing_are_not_waited_for(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name, body_timeout_s=0.5, header_timeout_s=0.5) as door:
        # What a client sends that begins a call and no more.
        channel: Any = door.channel
        begin = channel.stream_unary(f"{ENDPOINTS}Run")
        code, reason, _ = await failure(begin(metadata=(), timeout=30))
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        code, reason, _ = await failure(begin(metadata=door.metadata, timeout=30))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")
        # One that connects, and says nothing.
        reader, writer = await asyncio.open_connection("127.0.0.1", door.server.port)
        async with asyncio.timeout(30):
            await reader.read()
        writer.close()
        # And many that only watch: those of one address have half of all places.
        health = health_pb2_grpc.HealthStub(door.channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(101)]
        seen = await asyncio.gather(*[one.read() for one in watching], return_exceptions=True)
        refused = [one for one in seen if isinstance(one, aio.AioRpcError)]
        assert [one.code() for one in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 51
        assert len(seen) - len(refused) == 50
        assert (await door.run(event={"text": "x"})).reply.completed.samples[0].text == "x"
        for one in watching:
            one.cancel()


async def test_a_stream_that_nobody_reads_gives_its_place_back(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name, send_timeout_s=0.5) as door:
        room = door.server.gateway.room
        text = "x" * 400_000
        given = message("guideway.v1.RunStreamRequest")(event={"endpoint": "/shop/mood", "text": text})
        few_bytes = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16)]
        async with aio.insecure_channel(f"127.0.0.1:{door.server.port}", options=few_bytes) as channel:
            unread = door.stream(channel)(given, metadata=door.metadata)
            await until(lambda: door.services.seen)
            await until(lambda: room.total == 0)
            with pytest.raises(aio.AioRpcError, match="not read in time"):
                async for _ in unread:
                    pass
        # Whoever reads, and takes a while between two answers, has them all.
        parts = [part async for part in door.stream()(given, metadata=door.metadata)]
        assert parts[-1].reply.completed.samples[0].value.string_value == text


async def test_health_says_whether_the_brokers_are_there(
    broker: RunningBroker, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LOOK_S", 0.05)
    async with running(broker, unique_name) as door:
        health = health_pb2_grpc.HealthStub(door.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="guideway.v1.Endpoints"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        there = door.server.gateway.calls.require_brokers

        async def gone(timeout_s: float = 5) -> None:
            raise Refusal(FailureCode.BROKER_UNREACHABLE, "no answer")

        for now, status in ((gone, "NOT_SERVING"), (there, "SERVING")):
            monkeypatch.setattr(door.server.gateway.calls, "require_brokers", now)
            assert health_pb2.HealthCheckResponse.ServingStatus.Name((await watch.read()).status) == status
        watch.cancel()


async def test_the_same_models_over_http(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name) as door:
        listen = Listen(host="127.0.0.1", port=0)
        bound = listening(listen)
        http = HttpServer(door.server.gateway, listen)
        serving = asyncio.create_task(http.run(bound))
        base = f"http://127.0.0.1:{bound.getsockname()[1]}/v2"
        async with httpx.AsyncClient(headers=dict(door.metadata), timeout=30, trust_env=False) as client:
            assert (await client.get(f"{base}/health/live")).json() == {"live": True}
            assert (await client.get(f"{base}/health/ready")).status_code == 200
            assert (await client.get(base)).json()["extensions"] == ["binary_tensor_data"]
            for name in (f"{unique_name}/mood", f"{unique_name}.mood"):
                told = (await client.get(f"{base}/models/{name}")).json()
                assert [one["name"] for one in told["outputs"]] == ["value", "text", "reply"]
                assert (await client.get(f"{base}/models/{name}/versions/1/ready")).json()["ready"] is True
            missing = await client.get(f"{base}/models/{unique_name}/mood/versions/2")
            assert (missing.status_code, missing.json()["code"]) == (404, "unknown_endpoint")
            inputs = [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "é"]}]
            place = f"{base}/models/{unique_name}/mood/infer"
            answer = await client.post(place, json={"id": "7", "inputs": inputs, "outputs": [{"name": "text"}]})
            assert answer.json() | {"outputs": []} == {
                "model_name": f"{unique_name}/mood", "model_version": "1", "id": "7", "outputs": [],
            }  # fmt: skip
            [output] = answer.json()["outputs"]
            assert [msgspec.json.decode(one)["text"] for one in output["data"]] == ["good", "é"]
            refused = await client.post(place, json={"inputs": [inputs[0] | {"datatype": "INT64"}]})
            assert (refused.status_code, refused.json()["code"]) == (400, "wrong_field")
            assert "has datatype 'INT64'" in refused.json()["error"]
            refused = await client.post(place, json={"inputs": inputs}, headers={"authorization": "Bearer x"})
            assert refused.status_code == 401
        http.stop()
        await serving
        bound.close()


async def test_tls_with_a_certificate_that_is_replaced(broker: RunningBroker, unique_name: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    first = write_certificate(certificate, key)
    async with running(
        broker, unique_name, listen=Listen(host="127.0.0.1", port=0, certificate=certificate, key=key)
    ) as door:

        async def answer(trusted: bytes) -> Any:
            credentials = grpc.ssl_channel_credentials(trusted)
            # Its own session each time: a resumed one shows no certificate.
            async with aio.secure_channel(f"localhost:{door.server.port}", credentials) as channel:
                return await Door(door.server, door.services, unique_name, door.key, channel).run(event={"text": "x"})

        assert (await answer(first)).reply.completed.samples[0].text == "x"
        second = write_certificate(certificate, key)
        assert (await answer(second)).reply.completed.samples[0].text == "x"
        code, _, _ = await failure(door.run(event={"text": "x"}, timeout=5))
        assert code is grpc.StatusCode.UNAVAILABLE


def write_certificate(certificate: Path, key: Path) -> bytes:
    """One that signs itself, for localhost."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    certificate.write_bytes(pem)
    return pem


GENERATED = """
import sys
import grpc
from guideway.v1 import endpoints_pb2, endpoints_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    endpoints = endpoints_pb2_grpc.EndpointsStub(channel)
    request = endpoints_pb2.RunRequest(event={"endpoint": "/shop/mood", "text": "Good soup."})
    key = [("authorization", "Bearer " + sys.argv[2])]
    print(endpoints.Run(request, metadata=key, timeout=30).reply.completed.samples[0].value.string_value)
"""


async def said(*command: str | Path, **options: Any) -> str:
    """What a program writes, once it has ended well."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, **options)
    written, _ = await process.communicate()
    assert process.returncode == 0
    return written.decode()


async def test_clients_with_generated_code_and_without(broker: RunningBroker, unique_name: str, tmp_path: Path) -> None:
    generate: list[str | Path] = ["-m", "grpc_tools.protoc", "-I", FOLDER, "--python_out=.", "--grpc_python_out=."]
    files = [f"guideway/v1/{name}.proto" for name in ("reply", "endpoints")]
    await said(sys.executable, *generate, *files, cwd=tmp_path)
    # Only here, where guideway itself is installed as well.
    for folder in ("guideway", "guideway/v1"):
        (tmp_path / folder / "__init__.py").touch()
    async with running(broker, unique_name) as door:
        place = f"127.0.0.1:{door.server.port}"
        environ = os.environ | {"PYTHONPATH": str(tmp_path), "GUIDEWAY_KEY": door.key}
        assert await said(sys.executable, "-c", GENERATED, place, door.key, env=environ) == "Good soup.\n"
        reply = await said(sys.executable, EXAMPLE, place, "/shop/mood", "Good soup.", env=environ)
        assert msgspec.json.decode(reply)["completed"]["samples"][0]["value"] == "Good soup."


async def test_a_gateway_is_killed_and_another_answers(broker: RunningBroker, unique_name: str) -> None:
    async with running(broker, unique_name) as door:
        environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "GUIDEWAY_LOG_LEVEL": "error"}
        command = [sys.executable, "-m", "guideway", "gateway", "--port", "0", "--grpc-port", "0", "--no-restart"]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            place = ""
            async for line in process.stderr:
                if line.startswith(b"gRPC at "):
                    place = line.decode().split()[2]
                    break
            async with aio.insecure_channel(place) as channel:
                other = Door(door.server, door.services, unique_name, door.key, channel)
                held, request_id = await other.begun({"text": "hold", "id": "order-17"})
                # Before it is noted that the event is published, another gateway may publish it once more.
                known = door.server.gateway.calls._reading.known
                await until(lambda: (found := known.find(unique_name, request_id)) and found[0].published)
                process.kill()
                code, _, _ = await failure(held)
                assert code is grpc.StatusCode.UNAVAILABLE
            again = asyncio.ensure_future(door.run(event={"text": "hold", "id": "order-17"}))
            assert (await door.other("Get", id=request_id)).in_progress.endpoint == "/shop/mood"
            door.services.release()
            assert (await again).reply.completed.samples[0].text == "hold"
            assert (await door.other("Get", id=request_id)).reply.id == request_id
            assert door.services.times[request_id] == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
