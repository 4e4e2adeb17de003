"""`.proto` files for tests, compiled by protoc as users compile theirs."""

from __future__ import annotations

import functools
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from guideway.catalogue.protobuf.descriptor_set import embedded
from guideway.catalogue.protobuf.field_types import derived
from guideway.catalogue.protobuf.message_type import message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.schemas.input import InputRule

SHOP = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
enum Priority { PRIORITY_UNSPECIFIED = 0; LOW = 1; HIGH = 2; }
message Other { string anything = 1; }
message Customer {
  string name = 1;
  int64 number = 2;
  Priority priority = 3;
  Customer referred_by = 4;
}
message Ticket {
  message Line { string item = 1; int64 amount = 2; }
  string text = 1;
  Priority priority = 2;
  optional string note = 3;
  repeated Line lines = 4;
  map<string, int64> counts = 5;
  oneof contact { string mail = 6; int64 phone = 7; }
  google.protobuf.Timestamp at = 8;
  google.protobuf.StringValue shop = 9;
  float ratio = 10;
  bytes picture = 11;
  Customer customer = 12;
  repeated int32 marks = 13;
  double total = 14;
  bool urgent = 15;
  int64 number = 16;
  google.protobuf.Struct free = 17;
  map<bool, Customer> by_flag = 18;
  repeated Priority history = 19;
}
message TicketMood { string mood = 1; }
"""


@functools.cache
def compiled(text: str, name: str = "shop/v1/shop.proto") -> FileDescriptorSet:
    """What `protoc --include_imports` makes of one file."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, name), Path(folder, "set")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        googles = resources.files("grpc_tools") / "_proto"
        options = [f"-I{folder}", f"-I{googles}", "--include_imports", f"--descriptor_set_out={out}"]
        assert protoc.main(["protoc", *options, str(file)]) == 0
        return FileDescriptorSet.FromString(out.read_bytes())


@functools.cache
def theirs(name: str, text: str = SHOP) -> Any:
    """The class with which a producer makes messages; it shares nothing with ours."""
    pool = DescriptorPool()
    for file in compiled(text).file:
        pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(name))


def input_rule(message: str = "shop.v1.Ticket", text: str = SHOP, **more: Any) -> InputRule:
    """An input rule as `apply` makes it of these files."""
    descriptors = embedded(pruned(compiled(text), [message]))
    template = more.setdefault("template", "{text}")
    if "fields" not in more:
        more["fields"] = derived(message_type(descriptors, message).descriptor, template)
        more.setdefault("text_field", "text" if "text" in more["fields"] else None)
    return InputRule(format="protobuf", message=message, descriptors=descriptors, **more)
