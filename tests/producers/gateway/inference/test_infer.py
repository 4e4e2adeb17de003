"""One request of several rows: the ids of their events."""

from __future__ import annotations

import msgspec

from guideway.producers.gateway.call import Call, id_of
from guideway.producers.gateway.inference.infer import infer
from guideway.producers.gateway.inference.models import Model
from guideway.producers.gateway.inference.tensors import Requested, Tensor
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Reply, Sample, Usage

MODEL = Model("shop/mood", 1, Endpoint(namespace="shop", name="mood", model_size="small", output=Text()))
LIKE = Call(namespace="shop", address=None, content=b"", content_type="")


async def ids_of(like: Call, rows: int) -> list[str]:
    """The ids under which the rows are known."""
    found = []

    async def run(call: Call) -> Reply:
        found.append(id_of(call))
        sample = Sample(value="x", text="x", finish_reason="stop")
        return Completed(
            id=found[-1], namespace="shop", endpoint="mood", endpoint_version=1, samples=[sample], guidance=[],
            usage=Usage(prompt_tokens=1, output_tokens=1), model_fingerprint="",
        )  # fmt: skip

    text = Tensor("text", "BYTES", (rows,), [b"good"] * rows)
    asked = Requested(model="shop/mood", version="", id="", parameters={}, inputs=[text], outputs=[])
    await infer(asked, MODEL, like, run, now_ms=0)
    return found


async def test_ids_and_keys_as_long_as_they_may_be_have_room_for_the_rows_number() -> None:
    seen = set()
    for last in "ab":
        long = "x" * 199 + last
        by_key = await ids_of(msgspec.structs.replace(LIKE, idempotency_key=long), 128)
        assert by_key == await ids_of(msgspec.structs.replace(LIKE, idempotency_key=long), 128)
        seen |= {*by_key}
    assert len(seen) == 256
    assert len({*await ids_of(msgspec.structs.replace(LIKE, request_id="x" * 200), 128)}) == 128
    assert await ids_of(msgspec.structs.replace(LIKE, request_id="x" * 200), 1) == ["x" * 200]
    assert await ids_of(msgspec.structs.replace(LIKE, request_id="order"), 2) == ["order.0", "order.1"]
