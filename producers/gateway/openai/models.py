"""Endpoints as models. Pure."""

from __future__ import annotations

from typing import Any

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.entries import Catalogue
from guideway.producers.gateway.openai.refused import UnknownModel
from guideway.producers.gateway.visible import Visible
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import CALL, NAME


def model_list(visible: Visible, caller: str) -> dict[str, Any]:
    """The body of `GET /v1/models`: what the caller may call, its router first."""
    router = [router_model(caller)] if visible.has_router else []
    endpoints = [model_of(endpoint) for _, endpoint in visible.endpoints.values()]
    return {"object": "list", "data": [*router, *endpoints]}


def model_of(endpoint: Endpoint) -> dict[str, Any]:
    """The body of `GET /v1/models/NAMESPACE/NAME`."""
    return {
        **_model(f"{endpoint.namespace}/{endpoint.name}", endpoint.namespace),
        "description": endpoint.description,
        "output": type(endpoint.output).__struct_config__.tag,
    }


def router_model(caller: str) -> dict[str, Any]:
    """The router of the caller's namespace, which chooses the endpoint."""
    return {
        **_model(f"{caller}/{CALL}", caller),
        "description": "The router of the namespace: it chooses the endpoint by the text.",
        "output": "",
    }


def named(model: str, caller: str) -> tuple[str, str] | None:
    """(namespace, name) of the endpoint that a model's name means; None: the router of the caller's namespace.

    Raises UnknownModel for what can be none.
    """
    namespace, slash, name = model.removeprefix("/").partition("/")
    if (namespace, name) == (caller, CALL):
        return None
    if not slash or not NAME.fullmatch(namespace) or not NAME.fullmatch(name):
        raise UnknownModel(model, caller)
    return namespace, name


def called_model(catalogue: Catalogue, model: str, caller: str) -> Endpoint | None:
    """The endpoint that a model's name means; None: the router of the caller's namespace.

    Raises UnknownModel where there is none, or none that the caller may call: nobody learns which of them it is.
    """
    if (address := named(model, caller)) is None:
        return None
    try:
        return called_endpoint(catalogue, *address, caller=caller)[1]
    except Refusal:
        raise UnknownModel(model, caller) from None


def _model(name: str, owner: str) -> dict[str, Any]:
    # The catalogue does not say when a version was made.
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
