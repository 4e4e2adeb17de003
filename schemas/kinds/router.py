"""How an event that names no endpoint is routed."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from guideway.schemas.kinds.manifest import Manifested, Name
from guideway.schemas.names.addresses import NAME

ROUTER: Final = "router"
"""The name of every router: a namespace has one."""
MAX_RULES: Final = 200
MAX_WHEN_CHARS: Final = 1000
MAX_EXAMPLES: Final = 2000
"""The most examples of one router: a worker embeds each of them once, which takes it some milliseconds."""
MAX_EXAMPLE_CHARS: Final = 1000
MAX_CANDIDATES: Final = 100
"""The most endpoints among which one router chooses."""

EndpointAddress = Annotated[
    str, Meta(pattern=rf"^/{NAME.pattern}/{NAME.pattern}\Z", description="/NAMESPACE/NAME of an endpoint")
]
_Example = Annotated[str, Meta(min_length=1, max_length=MAX_EXAMPLE_CHARS)]
_Score = Annotated[float, Meta(ge=0, le=1)]


class RoutingRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Events for which an expression holds go to an endpoint."""

    when: Annotated[str, Meta(min_length=1, max_length=MAX_WHEN_CHARS)]
    """A JMESPath expression over `fields`, `headers`, `text` and `key` of the event. It holds unless its value is
    false, null or empty. Where it cannot be applied, because a field is absent or of another type, it does not hold."""
    endpoint: EndpointAddress
    """Where these events go."""


class RoutingExamples(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What an endpoint's events look like. A worker learns from the examples to tell the endpoints apart."""

    texts: Annotated[dict[EndpointAddress, Annotated[list[_Example], Meta(min_length=1)]], Meta(min_length=1)]
    """Texts of each endpoint; 20 to 100 of each are useful."""
    none: list[_Example] = []
    """Texts that belong to no endpoint, of as many kinds as may come."""
    least_score: _Score = 0.4
    """The least score of the endpoint that is chosen. The scores of all endpoints and of `none` add up to about 1."""
    least_margin: _Score = 0.0
    """The least distance between the best score and the next one."""


class RoutingByModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The frozen model reads the descriptions of the endpoints and chooses one of them, or none."""

    least_score: _Score = 0.5
    """The least probability of the endpoint that is chosen, among all endpoints and none of them."""
    least_margin: _Score = 0.0
    """The least distance between the best probability and the next one."""


class Router(Manifested, frozen=True, kw_only=True, tag="router/v1"):
    """How an event on the general address of a namespace that names no endpoint finds one.

    The methods are tried in the order `rules`, `examples`, `model`; the first that chooses an endpoint decides. If none
    does, the event is refused with `no_route`.
    """

    endpoints: Annotated[list[EndpointAddress], Meta(max_length=MAX_CANDIDATES)] = []
    """The endpoints to choose from, of this namespace or of others that allow it. Empty: all endpoints of this
    namespace that have a `description`."""
    rules: Annotated[list[RoutingRule], Meta(max_length=MAX_RULES)] = []
    """The first rule that holds decides."""
    examples: RoutingExamples | None = None
    """Choose by texts that are like it."""
    model: RoutingByModel | None = None
    """Let the model choose by descriptions."""
    model_size: Name | None = None
    """The model size whose workers answer for `examples` and `model`."""
    max_text_chars: Annotated[int, Meta(ge=1, le=20_000)] = 2000
    """`examples` and `model` look at so many characters of an event, the first ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != ROUTER:
            raise ValueError(f"a namespace has one router, and its name is {ROUTER!r}: write `name: {ROUTER}`")
        if not (self.rules or self.examples or self.model):
            raise ValueError("it has no method: give it `rules`, `examples` or `model`")
        if self.is_asked and self.model_size is None:
            raise ValueError("`examples` and `model` are answered by workers: name their `model_size`")
        if self.examples is not None:
            found = sum(map(len, self.examples.texts.values())) + len(self.examples.none)
            if found > MAX_EXAMPLES:
                raise ValueError(f"examples has {found} texts, at most {MAX_EXAMPLES:,} are taken: leave some out")
            if len(self.examples.texts) + bool(self.examples.none) < 2:
                raise ValueError("examples are of one endpoint only: give texts of another one, or of `none`")

    @property
    def methods(self) -> list[str]:
        """The methods that it has, in the order in which they are tried."""
        return [name for name in ("rules", "examples", "model") if getattr(self, name)]

    @property
    def is_asked(self) -> bool:
        """Whether workers are asked where rules do not decide."""
        return self.examples is not None or self.model is not None
