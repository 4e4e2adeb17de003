"""The frozen model chooses among descriptions of endpoints: what it is asked, and what its answer says. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.engine.text.label_biases import log_weight
from guideway.workers.messages.from_engine import Branch
from guideway.workers.routing.choice import NONE

_NONE_LABEL: Final = "other"
_MAX_DESCRIPTION_CHARS: Final = 300


def labels_of(candidates: Mapping[str, Endpoint]) -> dict[str, str]:
    """Label → address: endpoints by their names, `other` for none of them."""
    names = Counter(endpoint.name for endpoint in candidates.values())
    labels = {_NONE_LABEL: NONE}
    for address, endpoint in candidates.items():
        plain = names[endpoint.name] == 1 and endpoint.name != _NONE_LABEL
        labels[endpoint.name if plain else address.strip("/").replace("/", " ")] = address
    return labels


def asking(
    id_: str,
    namespace: str,
    version: int,
    text: str,
    candidates: Mapping[str, Endpoint],
    shown: Mapping[str, Sequence[str]],
) -> Request:
    """The request that lets the model choose. shown: some example texts of each address, `NONE` for no endpoint."""
    labels = labels_of(candidates)
    lines = ["Which task does the message belong to?"]
    for label, address in labels.items():
        if address != NONE:
            said = " ".join(candidates[address].description.split())[:_MAX_DESCRIPTION_CHARS]
            lines.append(f"- {label}: {said}")
    lines.append(f"- {_NONE_LABEL}: anything else, such as a question or a command that no task is for")
    label_of = {address: label for label, address in labels.items()}
    for address, texts in shown.items():
        if address in label_of:
            lines += [f"Message: {' '.join(one.split())}\nTask: {label_of[address]}" for one in texts]
    return Request(
        id=f"routing {id_}",
        namespace=namespace,
        endpoint="router",
        endpoint_version=version,
        parts=[
            Part(kind="instruction", source="endpoint", text="\n".join(lines)),
            Part(kind="input", source="caller", text=f"Message: {' '.join(text.split())}\nTask:"),
        ],
        guidance=[],
        output=Choice(list(labels)),
        words=[],
        generation=Generation(max_tokens=64),
        reply_to=[ReplyAddress(topic="gw.routed.v1")],
        deadline_ms=None,
    )


def shares(
    partings: Sequence[Sequence[Branch]], labels: Sequence[str], biases: Mapping[str, float]
) -> dict[str, float]:
    """Label → its probability with its bias; they add up to 1.

    partings: on the way of the label that was taken. Labels that left it together share what they have alike, because
    nothing is known of them.
    """
    found = dict.fromkeys(labels, 0.0)
    if not partings:
        return dict.fromkeys(labels, 1 / len(labels))
    left = 0.0
    for number, parting in enumerate(partings):
        weighted = [
            max(branch.log_share, -50.0) + log_weight([biases.get(label, 0.0) for label in branch.labels])
            for branch in parting
        ]
        most = max(weighted)
        total = most + math.log(sum(math.exp(one - most) for one in weighted))
        following = set(partings[number + 1][0].labels) if number + 1 < len(partings) else set()
        goes_on = None
        for branch, one in zip(parting, weighted, strict=True):
            share = left + one - total
            if following and following <= set(branch.labels):
                goes_on = share
                continue
            for label in branch.labels:
                found[label] = math.exp(share) / len(branch.labels)
        if goes_on is None:
            break
        left = goes_on
    return found
