"""Endpoints as models: their names, versions, inputs and outputs. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.entries import Catalogue
from guideway.producers.gateway.inference.tensors import Datatype
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import NAME, endpoint_address

PLATFORM: Final = "guideway"
OUTPUTS: Final = ("value", "text", "reply")
"""`value`: the typed result as JSON; `text`: what it was read from; `reply`: the whole reply as JSON."""
PER_SAMPLE: Final = frozenset({"value", "text"})
"""Outputs with one element for each sample of a row."""


class TensorInfo(msgspec.Struct, frozen=True):
    """What a model says of one of its tensors."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    """-1: any number of rows."""


class ModelInfo(msgspec.Struct, frozen=True):
    """What a model says of itself."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class Model(msgspec.Struct, frozen=True):
    """An endpoint as its caller named it."""

    name: str
    version: int
    endpoint: Endpoint

    @property
    def address(self) -> str:
        """`/NAMESPACE/NAME`."""
        return endpoint_address(self.endpoint.namespace, self.endpoint.name)

    def info(self) -> ModelInfo:
        """Its inputs and outputs."""
        samples = self.endpoint.generation.samples
        return ModelInfo(
            name=self.name,
            versions=[str(self.version)],
            platform=PLATFORM,
            inputs=[TensorInfo(name, datatype_of(field), (-1,)) for name, field in self.endpoint.input.fields.items()],
            outputs=[TensorInfo(name, "BYTES", shape_of(name, -1, samples)) for name in OUTPUTS],
        )


def split_name(name: str) -> tuple[str, str]:
    """`NAMESPACE/NAME` or `NAMESPACE.NAME` → both. Raises Refusal(unknown_endpoint)."""
    namespace, _, endpoint = name.removeprefix("/").replace(".", "/", 1).partition("/")
    if not NAME.fullmatch(namespace) or not NAME.fullmatch(endpoint):
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT, f"{name[:150]!r} is no model: write NAMESPACE/NAME, or NAMESPACE.NAME"
        )
    return namespace, endpoint


def model(catalogue: Catalogue, name: str, version: str, *, caller: str) -> Model:
    """The model of this name, as the namespace `caller` may call it.

    version: empty, or the endpoint's present one. Raises Refusal: unknown_endpoint, not_allowed.
    """
    namespace, endpoint = split_name(name)
    present, found = called_endpoint(catalogue, namespace, endpoint, caller=caller)
    require_version(version, present, name)
    return Model(name, present, found)


def require_version(asked: str, present: int, name: str) -> None:
    """Raises Refusal(unknown_endpoint) where a version is asked for and it is another."""
    if asked and asked != str(present):
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"model {name[:150]} has version {present} now, and version {asked[:20]!r} is not served: ask for "
            f"{present}, or for none",
        )


def datatype_of(field: Field) -> Datatype:
    """How values of this field come; arrays and objects as JSON."""
    match field.type:
        case "integer":
            return "INT64"
        case "number":
            return "FP64"
        case "boolean":
            return "BOOL"
    return "BYTES"


def shape_of(output: str, rows: int, samples: int) -> tuple[int, ...]:
    """[rows], or [rows, samples] where there are several samples and the output has one element for each."""
    return (rows, samples) if samples > 1 and output in PER_SAMPLE else (rows,)
