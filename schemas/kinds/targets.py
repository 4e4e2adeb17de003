"""Where results go beside the caller: topics of others, webhooks, an archive."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.kinds.manifest import Grantee, Manifested, Name
from guideway.schemas.kinds.web_address import MAX_URL_CHARS, WebAddress, web_address
from guideway.schemas.names.addresses import NAME, RESERVED_ENDPOINTS

TargetName = Annotated[
    str,
    Meta(
        pattern=rf"^(/{NAME.pattern}/)?{NAME.pattern}\Z",
        description="NAME of this namespace, or /NAMESPACE/NAME of another one that accepts it",
    ),
]
"""Whose reply topic gets a copy: an endpoint's, or that of a `target/v1`."""


MAX_PAYLOAD_BYTES: Final = 262_144
"""The most that a webhook may be posted."""


class WebhookUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A target that is a webhook."""

    webhook: Name
    """The name of a `webhook/v1` of this namespace."""


class ArchiveRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is kept of completed requests, for how long, and how."""

    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """So many days after the day of the result it is deleted."""
    text: bool = True
    """Whether the text is kept as well: it may hold personal data."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """`jsonl`: lines of JSON, compressed by gzip; `parquet`: needs `pyarrow` where the archive is written."""


class Webhook(Manifested, frozen=True, kw_only=True, tag="webhook/v1"):
    """An address in the web to which results are posted, signed by the rules of Standard Webhooks."""

    url: Annotated[str, Meta(max_length=MAX_URL_CHARS)]
    """An https address. The platform says which hosts may be reached."""
    secret: Name
    """The name of the secret that signs. The secret itself is kept where `guideway targets` runs, never here."""
    results: Literal["completed", "failed", "both"] = "both"
    """Which results are posted."""
    timeout_s: Annotated[float, Meta(ge=1, le=30)] = 15.0
    """Seconds for one attempt, from looking up the host to the answer's end."""
    max_payload_bytes: Annotated[int, Meta(ge=1_000, le=MAX_PAYLOAD_BYTES)] = 20_000
    """A larger payload is posted without the result itself: it says only of which request it is, and how it ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            web_address(self.url)
        except ValueError as error:
            raise ValueError(f"url: {error}") from None

    @property
    def address(self) -> WebAddress:
        """The address, taken apart."""
        return web_address(self.url)

    def wants(self, *, completed: bool) -> bool:
        """Whether results of this kind are posted."""
        return self.results in ("both", "completed" if completed else "failed")


class Target(Manifested, frozen=True, kw_only=True, tag="target/v1"):
    """A reply topic of this namespace on which results of other namespaces' endpoints may appear."""

    accepts_from: Annotated[list[Grantee], Meta(min_length=1, max_length=1000)]
    """The namespaces whose endpoints may name it as `/NAMESPACE/NAME` in their `targets`; `*` for all."""
    partitions: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Partitions of its topic, where no endpoint has the same name; a change applies to a new topic only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in RESERVED_ENDPOINTS:
            raise ValueError(f"a target's name cannot be {self.name!r}, which is reserved: choose another")

    def accepts(self, namespace: str) -> bool:
        """Whether results of this namespace's endpoints may appear here."""
        return namespace == self.namespace or not {"*", namespace}.isdisjoint(self.accepts_from)


MAX_WEBHOOKS: Final = 8
"""The most webhooks of an endpoint."""
