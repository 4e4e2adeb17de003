"""Texts to calibrate from, out of a file beside the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guideway.catalogue.documents.calibration_files import with_texts
from guideway.schemas.calibration import MAX_TEXTS, CalibratedBy, Calibration
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean


def read(folder: Path, name: str, data: bytes | None, method: CalibratedBy = "unlabelled") -> Calibration:
    if data is not None:
        (folder / name).write_bytes(data)
    rule = Calibration(method=method, file=name)
    endpoint = Endpoint(namespace="a", name="b", model_size="small", output=Boolean(), calibration=rule)
    found = with_texts(folder / "manifest.yaml", endpoint)
    assert isinstance(found, Endpoint)
    assert isinstance(found.calibration, Calibration)
    return found.calibration


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_one_text_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "texts.txt", "\ufeffschön\n\n".encode() + b"\n".join(b"text %d" % n for n in range(9)))
    assert (found.texts[0], len(found.texts), found.file) == ("schön", 10, "")


def test_rows_of_json_with_labels_and_without(tmp_path: Path) -> None:
    rows = [{"text": f"a\u2028b {number}", "label": "true", "other": [1]} for number in range(8)]
    data = lines(*rows) + b"\n"
    assert read(tmp_path, "rows.jsonl", data).labels == []
    fitted = read(tmp_path, "rows.jsonl", data, "fitted")
    assert (fitted.labels, fitted.texts[0]) == (["true"] * 8, "a\u2028b 0")


@pytest.mark.parametrize(
    ("name", "data", "method", "why"),
    [
        ("none.txt", None, "unlabelled", "none.txt cannot be read"),
        ("few.txt", b"one\ntwo", "unlabelled", "needs 8 texts"),
        ("bytes.txt", b"\xff\xfe", "unlabelled", "not UTF-8"),
        ("large.txt", b"x" * (2**20 + 1), "unlabelled", "larger than"),
        ("many.txt", b"x\n" * (MAX_TEXTS + 1), "unlabelled", f"at most {MAX_TEXTS}"),
        ("a.csv", b"text", "unlabelled", "give a .txt"),
        ("a.txt", b"text", "fitted", "with `text` and `label`"),
        ("a.jsonl", b'{"text": "a"}\n{', "unlabelled", "line 2"),
        ("a.jsonl", b'{"words": "a"}', "unlabelled", "line 1"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b"}', "fitted", "row 2 has no `label`"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_line(
    tmp_path: Path, name: str, data: bytes | None, method: CalibratedBy, why: str
) -> None:
    with pytest.raises(Refusal, match=why):
        read(tmp_path, name, data, method)
