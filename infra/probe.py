"""Looks at a broker's address before a command waits for it, so that the user soon learns what is wrong."""

from __future__ import annotations

from typing import Final

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.look import ANSWER_S, CONNECT_S, Away, wrong_with
from guideway.schemas.failures import FailureCode, Refusal

_MEND: Final = (
    "start them, set KAFKA_BOOTSTRAP_SERVERS to a cluster that runs, or unset it and run `guideway broker up`"
)


def require_broker(cluster: Cluster, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
    """Raises Refusal where `wrong_with` finds something: broker_unreachable, or login_refused."""
    match wrong_with(cluster, connect_s=connect_s, answer_s=answer_s):
        case None:
            return
        case Away(why):
            raise Refusal(FailureCode.BROKER_UNREACHABLE, f"no answer from the brokers at {cluster} ({why}): {_MEND}")
        case cause:
            raise cause.refusal(cluster)
