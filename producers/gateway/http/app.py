"""The HTTP door, put together: the paths of each of its parts, inside the guard."""

from __future__ import annotations

from starlette.routing import Router
from starlette.types import ASGIApp

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http import health, rest
from guideway.producers.gateway.http.guard import Guard
from guideway.producers.gateway.http.paths import nowhere
from guideway.producers.gateway.inference import rest as inference
from guideway.producers.gateway.openai import routes as openai
from guideway.producers.gateway.openapi import routes as openapi


def make_app(gateway: Gateway) -> ASGIApp:
    """The application. The native paths are last, for they take any two names."""
    routes = [
        *health.routes(gateway),
        *openai.routes(gateway),
        *openapi.routes(gateway),
        *inference.routes(gateway),
        *rest.routes(gateway),
    ]
    return Guard(Router(routes, redirect_slashes=False, default=nowhere), gateway)
