"""`make protos`: the `.proto` files of this folder → `descriptors.binpb`, which lies beside them.

With `grpcio-tools`, which only developers have. Whoever runs guideway reads the descriptors (`messages`).
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from guideway.schemas.protobuf.messages import DESCRIPTORS, FOLDER


def compiled() -> FileDescriptorSet:
    """What the `.proto` files say now, with the files of Google's that they import, in order of their imports.

    Raises ValueError for a file that is no Protocol Buffers.
    """
    from grpc_tools import protoc

    files = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.proto"))
    googles = resources.files("grpc_tools") / "_proto"
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        options = [f"-I{FOLDER}", f"-I{googles}", "--include_imports", f"--descriptor_set_out={out.name}"]
        if protoc.main(["protoc", *options, *files]) != 0:
            raise ValueError("protoc refuses the files: it has said why")
        return FileDescriptorSet.FromString(Path(out.name).read_bytes())


def main() -> None:
    """Writes the descriptors."""
    DESCRIPTORS.write_bytes(compiled().SerializeToString(deterministic=True))
    sys.stdout.write(f"{DESCRIPTORS.name} is written\n")


if __name__ == "__main__":
    main()
