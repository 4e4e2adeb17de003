"""Which endpoint an event is for: that of its topic, or on a general address the one that it names. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.producers.events.envelope import Envelope, invalid_header, text_of
from guideway.schemas.names import header
from guideway.schemas.names.addresses import NAME
from guideway.schemas.names.topics import endpoint_of_topic, sender_of_topic

_ATTRIBUTE: Final = f"{header.CLOUD_EVENT_PREFIX}{header.ENDPOINT}"
"""The same as an extension attribute of a CloudEvent in binary mode."""
_SHOWN_CHARS: Final = 140


class Addressee(msgspec.Struct, frozen=True):
    """The endpoint that is called, whether or not there is one."""

    namespace: str
    name: str
    caller: str
    """The namespace that calls: that of the topic in which the event stands, whatever the event says."""

    @property
    def foreign_caller(self) -> str | None:
        """The caller, where it is another namespace than the endpoint's."""
        return None if self.caller == self.namespace else self.caller


def addressee(envelope: Envelope) -> Addressee | None:
    """The endpoint of this event; None: it stands on a general address and names none.

    Raises Refusal(invalid_header).
    """
    record = envelope.record
    caller = sender_of_topic(record.topic)
    if (of_topic := endpoint_of_topic(record.topic)) is not None:
        return Addressee(*of_topic, caller)
    written = text_of(record, header.ENDPOINT) or text_of(record, _ATTRIBUTE)
    if not written and isinstance(envelope.cloud_event, dict):
        given = envelope.cloud_event.get(header.ENDPOINT)
        written = given if isinstance(given, str) else ""
    if not written:
        return None
    namespace, slash, name = written.removeprefix("/").rpartition("/")
    namespace = namespace if slash else caller
    if not NAME.fullmatch(namespace) or not NAME.fullmatch(name):
        shown = written if len(written) <= _SHOWN_CHARS else written[:_SHOWN_CHARS] + "…"
        raise invalid_header(header.ENDPOINT, f"an address as /NAMESPACE/NAME, for {shown!r} is none")
    return Addressee(namespace, name, caller)
