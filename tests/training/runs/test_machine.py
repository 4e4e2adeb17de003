"""The type in which a run loads its base model."""

from __future__ import annotations

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.training.runs.machine import training_dtype


def test_a_model_in_int8_is_trained_on_in_int8() -> None:
    served = {
        dtype: Model(namespace="public", name="small", source="a/b", dtype=dtype) for dtype in ("float16", "int8")
    }
    assert training_dtype(served["float16"], "float32") == "float32"
    assert training_dtype(served["int8"], "bfloat16") == "int8"
    with pytest.raises(Refusal, match="remove `dtype: float32` from the schedule") as caught:
        training_dtype(served["int8"], "float32")
    assert caught.value.code is FailureCode.INVALID_SETTING
