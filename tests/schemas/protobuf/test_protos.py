"""The published `.proto` files."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from guideway.schemas.protobuf.messages import DESCRIPTORS, FOLDER, message

BUF = Path(sysconfig.get_path("scripts"), "buf")


def test_the_files_pass_buf_lint() -> None:
    run = subprocess.run([BUF, "lint"], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_nothing_that_was_published_is_broken(tmp_path: Path) -> None:
    """The descriptors of the first release: no name, number or type may change that they have."""
    first = Path(__file__).with_name("first.binpb")
    against: list[str | Path] = [BUF, "breaking", DESCRIPTORS, "--against", first]
    run = subprocess.run(against, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def numbers(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
    return {field.name: (field.number, field.type, field.is_repeated) for field in descriptor.fields}


def test_the_open_inference_protocol_is_that_of_triton() -> None:
    from tritonclient.grpc import service_pb2

    file = message("inference.ModelInferRequest").DESCRIPTOR.file
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    assert file.message_types_by_name
    for name, ours in file.message_types_by_name.items():
        assert numbers(ours) == numbers(theirs[name]), name
        for inner, nested in ours.nested_types_by_name.items():
            if not nested.GetOptions().map_entry:
                assert numbers(nested) == numbers(theirs[name].nested_types_by_name[inner]), inner
