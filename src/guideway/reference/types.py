"""The types of manifests and tasks, with what their source says of each field."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from guideway.catalogue.bounds import MAX_DEADLINE_S, MIN_DEADLINE_S, measured
from guideway.catalogue.documents.shapes import bare, shape_at, shape_of, structs_of
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router
from guideway.schemas.kinds.targets import Target, Webhook
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Json
from guideway.schemas.retrieval import RetrievalRule
from guideway.training.runs.task import Task

MANIFESTS: Final = (Endpoint, Guidance, Model, RetrievalSet, SetAlias, Calibrated, Namespace, Router, Webhook, Target)
ALL: Final = (*MANIFESTS, Task)
_DIGEST: Final = f"sha256:{'0' * 64}"
_SAMPLES: Final[tuple[Manifest, ...]] = (
    Endpoint(namespace="a", name="a", model_size="a", output=Json({}), retrieval=RetrievalRule(sets=["a/a"])),
    Guidance(namespace="a", name="a", form="text_prompt", text="a"),
    Model(namespace="public", name="a", source="a"),
    RetrievalSet(
        namespace="a",
        name="a",
        artefact=_DIGEST,
        embedding=EmbeddingModel(source="a", fingerprint=_DIGEST, dimension=1),
        passages=1,
    ),
    SetAlias(namespace="a", name="a", version=1),
)
"""Of each kind that has bounds of its own; where bounds depend on what is there, it is."""


def structs_in(*kinds: type[Any]) -> list[types.StructType]:
    """These structs and all that stand inside of them, each once, in the order in which they are met."""
    found: dict[type[Any], types.StructType] = {}

    def visit(shape: types.Type) -> None:
        match bare(shape):
            case types.ListType(item_type=inner) | types.DictType(value_type=inner):
                visit(inner)
            case other:
                for struct in structs_of(other):
                    if struct.cls not in found:
                        found[struct.cls] = struct
                        for field in struct.fields:
                            visit(field.type)

    for kind in kinds:
        visit(types.type_info(kind))
    return list(found.values())


@cache
def meanings(struct: type[Any]) -> dict[str, str]:
    """Field, as it is written → what stands below it in the source of the struct, or of what that inherits from."""
    found: dict[str, str] = {}
    for one in reversed(struct.__mro__):
        if issubclass(one, msgspec.Struct) and one is not msgspec.Struct:
            found |= dict(_meanings(one))
    return {one.encode_name: found[one.name] for one in msgspec.structs.fields(struct) if one.name in found}


def _meanings(struct: type[Any]) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(definition, ast.ClassDef)
    field = None
    for node in definition.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                field = name
            case ast.Expr(value=ast.Constant(value=str() as text)) if field is not None:
                yield field, re.sub(r"\bNone\b", "null", " ".join(text.split()))
                field = None
            case _:
                field = None


@cache
def bounds() -> dict[tuple[type[Any], str], int]:
    """(struct, field) → how much of it `apply` takes at most, beside what the types say."""
    found = {}
    for sample in _SAMPLES:
        for place, _, _, most in measured(sample):
            if place:
                around = shape_at(shape_of(type(sample)), msgspec.to_builtins(sample), place[:-1])
                (struct,) = structs_of(around)
                found[struct.cls, str(place[-1])] = most
    return found


DEADLINE_S: Final = (MIN_DEADLINE_S, MAX_DEADLINE_S)
