"""In which form a caller wants its reply, by the header `accept`. Pure."""

from __future__ import annotations

import re
from typing import Final

from guideway.producers.events.protobuf.framing import MAX_TYPE_CHARS, declared_message, is_protobuf
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header

_JSON: Final = frozenset({"application/json", "text/json", "application/*", "*/*"})
_QUALITY: Final = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?=;|$)", re.IGNORECASE)


def wanted_message(accept: str) -> str | None:
    """The Protobuf message that the reply is to be; empty: any; None: JSON, also where nothing is said.

    Of several forms the one with the highest `q` counts, of equal ones the first. Raises Refusal(invalid_header) where
    there is none that a reply can have.
    """
    if not accept:
        return None
    if len(accept) > MAX_TYPE_CHARS:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {header.ACCEPT} has {len(accept)} characters, at most {MAX_TYPE_CHARS} are read: shorten it",
        )
    found: list[tuple[float, str | None]] = []
    given_as = accept.strip()
    if given_as[:1] == given_as[-1:] == '"':
        # Spring's mapper of headers writes texts as JSON.
        given_as = given_as[1:-1].replace('\\"', '"')
    for part in given_as.split(","):
        media = part.partition(";")[0].strip().lower()
        quality = float(given[1]) if (given := _QUALITY.search(part)) else 1.0
        if quality > 0 and is_protobuf(media):
            found.append((quality, declared_message(part.strip())))
        elif quality > 0 and (media in _JSON or media.endswith("+json")):
            found.append((quality, None))
    if not found and accept.strip():
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {header.ACCEPT} is {accept[:60]!r}, and a reply is JSON or Protobuf: write application/json or "
            "application/protobuf",
        )
    return max(found, key=lambda one: one[0])[1] if found else None
