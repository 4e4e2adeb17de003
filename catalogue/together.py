"""Which guidance may act on one request together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.request import MAX_GUIDANCE, GuidanceRef


def check_together(named: Sequence[tuple[GuidanceRef, Guidance]]) -> None:
    """Raises Refusal(guidance_forbidden) if there are too many, or if one occurs twice, under any name or version.

    Guidance that occurs twice acts twice: that exceeds the limit of its scale and takes time from all rows.
    """
    check_number(len(named))
    by_name: dict[tuple[str, str], GuidanceRef] = {}
    by_content: dict[str, GuidanceRef] = {}
    for ref, guidance in named:
        name = (ref.namespace, ref.name)
        if (before := by_name.setdefault(name, ref)) is not ref:
            raise _forbidden(f"guidance {ref.namespace}/{ref.name} is named twice (as {before} and as {ref})")
        if guidance.artefact and (before := by_content.setdefault(guidance.artefact, ref)) is not ref:
            raise _forbidden(f"guidance {ref} is the same artefact as {before}")


def check_number(number: int) -> None:
    """Raises Refusal(guidance_forbidden) if one request may not have so many."""
    if number > MAX_GUIDANCE:
        raise _forbidden(f"{number} guidances are named for one request, at most {MAX_GUIDANCE} may be")


def _forbidden(why: str) -> Refusal:
    return Refusal(FailureCode.GUIDANCE_FORBIDDEN, f"{why}: name each once, and leave out what is not needed")
