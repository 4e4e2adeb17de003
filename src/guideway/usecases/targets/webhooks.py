"""What this machine knows of webhooks beside the catalogue: which hosts may be reached, and the secrets that sign."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guideway.catalogue.documents.faults import Fault
from guideway.catalogue.documents.manifest_files import Source
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.schemas.kinds.targets import Webhook
from guideway.settings import Settings


def egress_faults(settings: Settings, sources: Sequence[Source]) -> Iterator[Fault]:
    """Webhooks without https, unless they are on the list as it is set here. Raises Refusal(invalid_setting)."""
    egress = egress_of(settings.egress)
    for source in sources:
        if isinstance(webhook := source.manifest, Webhook):
            address = webhook.address
            if address.scheme == "http" and egress.refusal(address) is not None:
                yield source.fault(
                    "url: http lets everybody on the way read and change results: write https, or, where the platform "
                    "lists this host with http://, set GUIDEWAY_EGRESS here too",
                    ("url",),
                )


def unlisted(settings: Settings, sources: Sequence[Source]) -> Iterator[str]:
    """A line for each webhook that is not on the list, where one is set here."""
    egress = egress_of(settings.egress)
    for source in sources:
        webhook = source.manifest
        why = egress.refusal(webhook.address) if egress.rules and isinstance(webhook, Webhook) else None
        if why is not None:
            yield f"webhook {webhook.namespace}/{webhook.name} gets nothing yet: {why}"


def secret_files(settings: Settings) -> SecretFiles:
    """The secrets of webhooks on this machine."""
    return SecretFiles(settings.secrets)
