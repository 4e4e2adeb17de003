"""The topics in which services keep what they know, and tell each other: catalogues, keys, jobs, shadows, results."""

from __future__ import annotations

from typing import Final, Literal

from guideway.schemas.names.addresses import NAME, PUBLIC


def catalogue_topic(namespace: str) -> str:
    """The manifests of one namespace: compacted, one partition. That of `public` is the platform's.

    It counts for that namespace only, and the right to write it is the right to apply and delete there.
    """
    return f"gw.{namespace}.catalogue.v1"


def owner_of_catalogue(topic: str) -> str | None:
    """The namespace whose catalogue this topic is, or None for any other topic."""
    return _owner(topic, "catalogue")


PUBLIC_CATALOGUE_TOPIC: Final = catalogue_topic(PUBLIC)
FORMER_CATALOGUE_TOPIC: Final = "gw.catalogue.v1"
"""The one catalogue of all namespaces that earlier versions had. Nothing in it counts."""
CALIBRATIONS_TOPIC: Final = "gw.calibrations.v1"
"""The biases of endpoints' labels, of all namespaces, by workers only. Compacted, one partition."""


def is_catalogue_topic(topic: str) -> bool:
    """Whether readers of the catalogue read it: the manifests of a namespace, or the biases of labels."""
    return topic == CALIBRATIONS_TOPIC or owner_of_catalogue(topic) is not None


KEYS_TOPIC: Final = "gw.keys.v1"
"""The keys with which callers log in at gateways, hashed, of all namespaces. Compacted, one partition."""
AUDITED_TOPICS: Final = r"^gw\.(?:[a-z0-9-]+\.catalogue|keys)\.v1$"
"""Pattern of what stewards keep the audit trail of: the catalogues of all namespaces, and keys. For a subscription."""
AUDIT_TOPIC: Final = "gw.audit.v1"
"""Who did what, and who was refused what: never content."""
USAGE_TOPIC: Final = "gw.usage.v1"
"""What namespaces use of their limits, as services tell it every few seconds. One partition."""
ROUTED_TOPIC: Final = "gw.routed.v1"
"""What workers answer to routing questions. One partition: every endpoint service reads all of it."""
TRAINING_TOPICS: Final = r"^gw\.[a-z0-9-]+\.training\.v1$"
"""Pattern of the training jobs of all namespaces, for a trainer's subscription."""


def training_topic(namespace: str) -> str:
    """Training jobs of a namespace."""
    return f"gw.{namespace}.training.v1"


def training_events_topic(namespace: str) -> str:
    """What happens to a namespace's jobs. One partition, so that all who watch see the events in order."""
    return f"gw.{namespace}.training-events.v1"


def training_cancel_topic(namespace: str) -> str:
    """Ids of a namespace's cancelled jobs. One partition, compacted."""
    return f"gw.{namespace}.training-cancel.v1"


def owner_of_training(topic: str) -> str | None:
    """The namespace whose training jobs, or cancellations of jobs, this topic holds, or None for any other topic."""
    return _owner(topic, "training", "training-cancel")


def is_training_cancel_topic(topic: str) -> bool:
    """Whether it holds the cancelled jobs of a namespace."""
    owner = owner_of_training(topic)
    return owner is not None and topic == training_cancel_topic(owner)


BATCH_TOPICS: Final = r"^gw\.[a-z0-9-]+\.batch\.v1$"
"""Pattern of the batch jobs of all namespaces, for a batcher's subscription."""


def batch_topic(namespace: str) -> str:
    """Batch jobs of a namespace. Its rows are answered in the partition of the same number of `BATCH_REPLIES`."""
    return f"gw.{namespace}.batch.v1"


def batch_events_topic(namespace: str) -> str:
    """What becomes of a namespace's batch jobs. One partition, compacted."""
    return f"gw.{namespace}.batch-events.v1"


def batch_cancel_topic(namespace: str) -> str:
    """Ids of a namespace's cancelled batch jobs. One partition, compacted."""
    return f"gw.{namespace}.batch-cancel.v1"


def owner_of_batch(topic: str) -> str | None:
    """The namespace whose batch jobs, or cancellations of such, this topic holds, or None for any other topic."""
    return _owner(topic, "batch", "batch-cancel")


def is_batch_cancel_topic(topic: str) -> bool:
    """Whether it holds the cancelled batch jobs of a namespace."""
    owner = owner_of_batch(topic)
    return owner is not None and topic == batch_cancel_topic(owner)


def accepted_topic(namespace: str) -> str:
    """What gateways have accepted for a namespace, and must find again. One partition, so that all see one order."""
    return f"gw.{namespace}.accepted.v1"


def owner_of_accepted(topic: str) -> str | None:
    """The namespace whose accepted requests this topic holds, or None for any other topic."""
    return _owner(topic, "accepted")


def shadows_topic(namespace: str) -> str:
    """The shadows of a namespace's endpoints: their rows, and how far they are. One partition, compacted."""
    return f"gw.{namespace}.shadows.v1"


def owner_of_shadows(topic: str) -> str | None:
    """The namespace whose shadows this topic holds, or None for any other topic."""
    return _owner(topic, "shadows")


LEAVING_TOPICS: Final = r"^gw\.[a-z0-9-]+\.(?:results|deliveries)\.v1$"
"""Pattern of what leaves Kafka, of all namespaces, for a subscription of `guideway targets`."""
HELD_WEBHOOKS_TOPIC: Final = "gw.webhooks.v1"
"""Which webhooks are held, because their receivers want nothing more. Compacted, one partition."""


def results_topic(namespace: str) -> str:
    """Results of a namespace's endpoints that go to webhooks or into the archive, with their texts where archived."""
    return f"gw.{namespace}.results.v1"


def deliveries_topic(namespace: str) -> str:
    """Deliveries to a namespace's webhooks that wait for their next attempt. A partition is a length of waiting."""
    return f"gw.{namespace}.deliveries.v1"


def owner_of_leaving(topic: str) -> tuple[str, Literal["results", "deliveries"]] | None:
    """(namespace, which) of a topic of what leaves Kafka, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, ("results" | "deliveries") as which, "v1"] if NAME.fullmatch(namespace):
            return namespace, which
    return None


def is_results_topic(topic: str) -> bool:
    """Whether it holds copies of results that leave Kafka."""
    owner = owner_of_leaving(topic)
    return owner is not None and owner[1] == "results"


def _owner(topic: str, *kinds: str) -> str | None:
    """The namespace of `gw.NAMESPACE.KIND.v1`, where it is of one of these kinds."""
    match topic.split("."):
        case ["gw", namespace, kind, "v1"] if kind in kinds and NAME.fullmatch(namespace):
            return namespace
    return None
