"""The generation parameters of a request: the endpoint's, and in place of some those that its event sets. Pure."""

from __future__ import annotations

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration, Generation
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import cutting


def asked_generation(asked: AskedGeneration, endpoint: Endpoint) -> Generation:
    """The parameters that hold. What an event sets to the endpoint's own value is never refused.

    Raises Refusal(generation_refused), which says what the caller or the endpoint's owner has to change.
    """
    generation = asked.over(endpoint.generation)
    if generation is endpoint.generation:
        return generation
    for name, most in endpoint.request_generation.beyond(generation, endpoint.generation).items():
        value = getattr(generation, name)
        if most is None:
            line = f"{name}: {'true' if name in ('top_p', 'stop', 'seed') else f'{value:g}'}"
            raise Refusal(
                FailureCode.GENERATION_REFUSED,
                f"this endpoint does not let a request set {name}: leave it out, or have `{line}` written under "
                f"request_generation in the manifest of {endpoint.address}",
            )
        raise Refusal(
            FailureCode.GENERATION_REFUSED,
            f"{name} is {value:g}, and a request may ask this endpoint for {most:g} at most: lower it, or have "
            f"request_generation.{name} raised in the manifest of {endpoint.address}",
        )
    if generation.stop != endpoint.generation.stop and (one := cutting(endpoint.output, generation.stop)) is not None:
        raise Refusal(
            FailureCode.GENERATION_REFUSED,
            f"stop has {one!r}, which would cut results of this endpoint's output rule: leave it out",
        )
    return generation
