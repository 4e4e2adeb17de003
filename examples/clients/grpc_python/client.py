"""One event and its result over gRPC, with nothing of guideway: the gateway itself says what its messages are.

    client.py GATEWAY /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]

GATEWAY is `HOST:PORT`. GUIDEWAY_KEY is a key, or a token, of the calling namespace. GUIDEWAY_CA names the file with the
certificate of the gateway's authority, where the gateway has TLS.
Prints the reply, one line of JSON. Exit code 0: completed; 1: failed; 2: no reply in time.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def connect(gateway: str) -> grpc.Channel:
    """A channel, with TLS where an authority is named."""
    if authority := os.environ.get("GUIDEWAY_CA"):
        return grpc.secure_channel(gateway, grpc.ssl_channel_credentials(Path(authority).read_bytes()))
    return grpc.insecure_channel(gateway)


def run(channel: grpc.Channel, endpoint: str, text: str, timeout_s: float) -> Any:
    """The `guideway.v1.Reply`. Raises grpc.RpcError, whose details say what to change."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    request, response = (
        GetMessageClass(pool.FindMessageTypeByName(f"guideway.v1.{name}")) for name in ("RunRequest", "RunResponse")
    )
    call = channel.unary_unary(
        "/guideway.v1.Endpoints/Run",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    key = (("authorization", f"Bearer {os.environ['GUIDEWAY_KEY']}"),) if "GUIDEWAY_KEY" in os.environ else ()
    # The deadline of the call is that of the event: what comes too late is not computed.
    return call(request(event={"endpoint": endpoint, "text": text}), metadata=key, timeout=timeout_s).reply


def main() -> int:
    if len(sys.argv) not in {4, 5} or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", (*sys.argv, "60")[4]):
        print("usage: client.py GATEWAY /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]", file=sys.stderr)
        return 64
    timeout_s = float(sys.argv[4]) if len(sys.argv) == 5 else 60.0
    with connect(sys.argv[1]) as channel:
        try:
            reply = run(channel, sys.argv[2], sys.argv[3], timeout_s)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 2 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 1
    print(MessageToJson(reply, indent=None, preserving_proto_field_name=True, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
