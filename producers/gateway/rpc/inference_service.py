"""The service `inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import grpc

from guideway.producers.gateway.call import Call, id_after
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.inference.grpc_form import infer_response, metadata_response, requested
from guideway.producers.gateway.inference.infer import infer
from guideway.producers.gateway.inference.models import PLATFORM, Model, model
from guideway.producers.gateway.rpc.methods import Asking, Methods
from guideway.producers.gateway.running import run
from guideway.schemas.failures import Refusal
from guideway.schemas.protobuf.messages import message
from guideway.schemas.reply import Reply

SERVICE: Final = "inference.GRPCInferenceService"


class InferenceService:
    """Endpoints as models. It reads the catalogue for their inputs; whether a call is answered says the road."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def handlers(self, methods: Methods) -> grpc.GenericRpcHandler[bytes, Any]:
        """What the server is to know."""
        made = {
            "ServerLive": methods.open("inference.ServerLiveRequest", self._server_live),
            "ServerReady": methods.open("inference.ServerReadyRequest", self._server_ready),
            "ServerMetadata": methods.open("inference.ServerMetadataRequest", self._server_metadata),
            "ModelReady": methods.unary("inference.ModelReadyRequest", self._model_ready),
            "ModelMetadata": methods.unary("inference.ModelMetadataRequest", self._model_metadata),
            "ModelInfer": methods.unary("inference.ModelInferRequest", self._model_infer),
        }
        return grpc.method_handlers_generic_handler(SERVICE, made)

    async def _server_live(self, _: Any) -> Any:
        return message("inference.ServerLiveResponse")(live=True)

    async def _server_ready(self, _: Any) -> Any:
        return message("inference.ServerReadyResponse")(ready=await self._gateway.is_ready())

    async def _server_metadata(self, _: Any) -> Any:
        return message("inference.ServerMetadataResponse")(name=PLATFORM, version=version("guideway"))

    async def _model_ready(self, request: Any, asking: Asking) -> Any:
        try:
            self._model(request.name, request.version, asking)
        except Refusal:
            return message("inference.ModelReadyResponse")(ready=False)
        return message("inference.ModelReadyResponse")(ready=await self._gateway.is_ready())

    async def _model_metadata(self, request: Any, asking: Asking) -> Any:
        return metadata_response(self._model(request.name, request.version, asking).info())

    async def _model_infer(self, request: Any, asking: Asking) -> Any:
        found = self._model(request.model_name, request.model_version, asking)
        like = Call(
            namespace=asking.namespace,
            address=found.address,
            content=b"",
            content_type="",
            request_id=id_after(asking.metadata.request_id),
            idempotency_key=asking.metadata.idempotency_key,
            deadline_ms=asking.deadline_ms,
            headers=asking.metadata.headers,
        )

        async def one(call: Call) -> Reply:
            return await run(self._gateway, call)

        answered = await infer(requested(request), found, like, one, now_ms=asking.now_ms)
        return infer_response(answered, raw=bool(request.raw_input_contents))

    def _model(self, name: str, version: str, asking: Asking) -> Model:
        found = model(self._gateway.catalogue_reader.catalogue, name, version, caller=asking.namespace)
        asking.endpoint = found.address
        return found
