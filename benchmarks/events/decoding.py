"""What reading one event costs, in JSON and in Protobuf: `python -m benchmarks.events.decoding`.

From the record's bytes to the checked text, as the endpoint service does it, in one thread; no broker, no model. The
same fields in both forms. Prints a table of microseconds for an event, the best of several rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import ParseDict

from guideway.catalogue.protobuf.descriptor_set import embedded
from guideway.catalogue.protobuf.field_types import derived
from guideway.catalogue.protobuf.message_type import message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.producers.events.contents import content
from guideway.producers.marshalling.marshal import render
from guideway.schemas.event import Event
from guideway.schemas.input import InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text

_STRING, _INT64, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_MESSAGE,
)
SENTENCE: Final = "The cup was broken when it came, and nobody has answered my letter of last week. "
EVENTS: Final[dict[str, dict[str, Any]]] = {
    "a sentence": {"text": SENTENCE},
    "a sentence, three fields, a message": {
        "text": SENTENCE,
        "note": "second letter",
        "number": 17,
        "lines": [{"item": "cup", "amount": 2}],
    },
    "a sentence, 20 messages": {"text": SENTENCE, "lines": [{"item": f"cup {n}", "amount": n} for n in range(1, 21)]},
    "a text of 16,000 characters": {"text": SENTENCE * 200},
}
"""All fields of the message are set in the second; elsewhere as many as are named."""


def endpoint() -> Endpoint:
    """An endpoint that takes both forms."""

    def field(name: str, number: int, kind: Any, of: str | None = None, many: bool = False) -> FieldDescriptorProto:
        label = FieldDescriptorProto.LABEL_REPEATED if many else FieldDescriptorProto.LABEL_OPTIONAL
        return FieldDescriptorProto(name=name, number=number, type=kind, label=label, type_name=of)

    line = DescriptorProto(name="Line", field=[field("item", 1, _STRING), field("amount", 2, _INT64)])
    letter = DescriptorProto(
        name="Letter",
        field=[
            field("text", 1, _STRING),
            field("note", 2, _STRING),
            field("number", 3, _INT64),
            field("lines", 4, _MESSAGE, ".shop.Line", many=True),
        ],
    )
    file = FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3", message_type=[letter, line])
    descriptors = embedded(pruned(FileDescriptorSet(file=[file]), ["shop.Letter"]))
    fields = derived(message_type(descriptors, "shop.Letter").descriptor, "{text}")
    rule = InputRule(format="protobuf", message="shop.Letter", descriptors=descriptors, fields=fields)
    return Endpoint(namespace="shop", name="letters", model_size="small", output=Text(), input=rule)


def microseconds(work: Callable[[], object], rounds: int, calls: int) -> float:
    """For one call, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - began) / calls)
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000)
    given = parser.parse_args()
    made = endpoint()
    kind = message_type(made.input.descriptors, made.input.message)
    print("| event | JSON, bytes | Protobuf, bytes | JSON, µs | Protobuf, µs | ratio |\n|---|---|---|---|---|---|")
    for name, fields in EVENTS.items():
        as_json = json.dumps(fields).encode()
        as_protobuf = ParseDict(fields, kind.factory()).SerializeToString()

        def read(value: bytes, content_type: str) -> str:
            event = Event(id="e", content=content(value, content_type, made.input))
            return render(event, made).text

        assert read(as_json, "application/json") == read(as_protobuf, "application/protobuf")
        times = [
            microseconds(lambda value=value, form=form: read(value, form), given.rounds, given.calls)  # type: ignore[misc]
            for value, form in ((as_json, "application/json"), (as_protobuf, "application/protobuf"))
        ]
        sizes = f"{len(as_json):,} | {len(as_protobuf):,}"
        print(f"| {name} | {sizes} | {times[0]:.1f} | {times[1]:.1f} | {times[1] / times[0]:.2f} |")


if __name__ == "__main__":
    main()
