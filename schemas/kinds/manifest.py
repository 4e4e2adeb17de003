"""What every manifest has, and who may use what is shared."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES

_NAME: Final = "1 to 63 of a-z, 0-9 and hyphens, no hyphen first or last"
Name = Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z", description=_NAME)]
Grantee = Annotated[str, Meta(pattern=rf"^(\*|{NAME.pattern})\Z", description="a namespace, or `*` for everybody")]
Digest = Annotated[
    str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z", description="`sha256:` and 64 of 0-9 and a-f, as `describe` shows it")
]


class Manifested(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="kind"
):
    """The owner, the name and a description."""

    namespace: Name
    """The owner: a team or a tenant. `infer`, `catalogue`, `training`, `gw`, `v1`, `v2`, `health` and `docs` are
    reserved."""
    name: Name
    """The name in its namespace. The name of a model is the model size."""
    description: str = ""
    """For people."""

    def __post_init__(self) -> None:
        if self.namespace in RESERVED_NAMESPACES:
            raise ValueError(f"namespace {self.namespace!r} is reserved: choose another")


def open_to(namespace: str, owner: str, grantees: list[str]) -> bool:
    """Whether `namespace` may use what `owner` shares with `grantees` (`*`: all). `public` is open to all."""
    return owner in {namespace, "public"} or not {"*", namespace}.isdisjoint(grantees)
