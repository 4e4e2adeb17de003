"""What namespaces and endpoints may be called, and which of these names stand for something of ours."""

from __future__ import annotations

import re
from typing import Final

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A namespace, endpoint, guidance or model-size name. It has no dots, so that topics cannot collide."""
PUBLIC: Final = "public"
"""The namespace of the platform: it names models and the limits of namespaces, and everybody may use what it has."""
ADDRESS: Final = re.compile(rf"/{NAME.pattern}/{NAME.pattern}")
"""An endpoint's address."""


def endpoint_address(namespace: str, endpoint: str) -> str:
    """The endpoint's address as people write it."""
    return f"/{namespace}/{endpoint}"


CALL: Final = "call"
"""Stands in place of an endpoint's name in topics of the general address, and in replies that tell of no endpoint."""
GATEWAY: Final = "gateway"
"""Stands in place of an endpoint's name in the topics of the gateways: what they are answered goes there."""
BATCH_REPLIES: Final = "batch-replies"
"""Stands in place of an endpoint's name in the topic to which the rows of batch jobs are answered."""
RESERVED_ENDPOINTS: Final = frozenset({CALL, "catalogue", GATEWAY, BATCH_REPLIES})
"""A topic of an endpoint with one of these names would be, or look like, one of its namespace's own."""
RESERVED_NAMESPACES: Final = frozenset({"infer", "catalogue", "training", "gw", "v1", "v2", "health", "docs"})
"""A topic, a consumer group or a path at a gateway of one of these would look like one of ours."""
TRIAL_ENDINGS: Final = ("-replay-now", "-replay-new")
"""Of the names of the two endpoints that a replay compares."""


def is_trial(endpoint: str) -> bool:
    """Whether an endpoint has the name of a trial: it is there as long as its replay, and its topics with it."""
    return endpoint.endswith(TRIAL_ENDINGS)
