"""Checks the Protobuf message that an endpoint declares for its results, before it is applied. Pure."""

from __future__ import annotations

from guideway.catalogue.protobuf.message_type import message_type
from guideway.catalogue.protobuf.writing import check_message
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean, Choice


def check_output_message(endpoint: Endpoint) -> None:
    """Raises ValueError, which says what to change, for a message that the endpoint's results do not fit into."""
    if endpoint.generation.samples > 1:
        raise ValueError(
            f"output_message holds one result, and generation.samples is {endpoint.generation.samples}: leave one of "
            "them out"
        )
    rule = endpoint.output
    if isinstance(rule, Choice | Boolean) and rule.min_confidence is not None and rule.below is None:
        raise ValueError(
            "output_message cannot say that a doubtful result is null: write output.below, or leave min_confidence out"
        )
    try:
        kind = message_type(endpoint.input.descriptors, endpoint.output_message)
        check_message(endpoint.output, kind)
    except ValueError as error:
        raise ValueError(f"output_message: {error}") from None
