"""One frozen language model for many tasks at once, fed from Kafka.

from guideway import BlockingClient, Client, Completed, Failed, Refusal
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from guideway.producers.client.blocking_client import BlockingClient
    from guideway.producers.client.client import Client
    from guideway.schemas.failures import FailureCode, Refusal
    from guideway.schemas.reply import Completed, Failed, Reply, Sample

__version__ = "0.1.0"
__all__ = ["BlockingClient", "Client", "Completed", "Failed", "FailureCode", "Refusal", "Reply", "Sample"]

_HOMES: Final = {
    "BlockingClient": "producers.client.blocking_client",
    "Client": "producers.client.client",
    "Completed": "schemas.reply",
    "Failed": "schemas.reply",
    "FailureCode": "schemas.failures",
    "Refusal": "schemas.failures",
    "Reply": "schemas.reply",
    "Sample": "schemas.reply",
}


def __getattr__(name: str) -> Any:
    """What is exported is imported when it is first used: the engine's process needs no Kafka client."""
    if name not in _HOMES:
        raise AttributeError(f"module 'guideway' has no attribute {name!r}")
    return getattr(importlib.import_module(f"guideway.{_HOMES[name]}"), name)
