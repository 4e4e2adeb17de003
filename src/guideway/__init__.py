"""One frozen language model for many tasks at once, fed from Kafka.

What a program needs:

    from guideway import BlockingClient, Client, Cluster, Completed, Failed, Refusal
"""

# This file imports nothing when it runs: Ctrl-C would print a stack trace in that time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from guideway.delivery.connection.cluster import Cluster
    from guideway.producers.client.blocking_client import BlockingClient
    from guideway.producers.client.client import Client
    from guideway.schemas.failures import FailureCode, Refusal
    from guideway.schemas.reply import Completed, Failed, FailedSample, Reply, Sample, Usage
    from guideway.schemas.retrieval import Citation

__version__ = "0.1.0"
__all__ = [
    "BlockingClient",
    "Citation",
    "Client",
    "Cluster",
    "Completed",
    "Failed",
    "FailedSample",
    "FailureCode",
    "Refusal",
    "Reply",
    "Sample",
    "Usage",
]

_HOMES = {
    "BlockingClient": "producers.client.blocking_client",
    "Citation": "schemas.retrieval",
    "Client": "producers.client.client",
    "Cluster": "delivery.connection.cluster",
    "Completed": "schemas.reply",
    "Failed": "schemas.reply",
    "FailedSample": "schemas.reply",
    "FailureCode": "schemas.failures",
    "Refusal": "schemas.failures",
    "Reply": "schemas.reply",
    "Sample": "schemas.reply",
    "Usage": "schemas.reply",
}


def __getattr__(name: str) -> "Any":
    """Import an exported name when it is first used: the engine's process needs no Kafka client."""
    if name not in _HOMES:
        raise AttributeError(f"module 'guideway' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"guideway.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
