"""How many virtual tokens guidance puts before a text. Pure."""

from __future__ import annotations

from typing import Literal

from guideway.catalogue.adapters.adapter import parse_adapter
from guideway.catalogue.adapters.forms import prompt_tokens
from guideway.catalogue.artefacts.contents import Contents
from guideway.schemas.manifests import TrainedForm


def virtual_tokens_in(files: Contents, form: TrainedForm | Literal["text_prompt"]) -> int | None:
    """Those of an artefact of this form; None for a form without. Raises Refusal(guidance_damaged)."""
    return prompt_tokens(parse_adapter(files)) if form in ("soft_prompt", "prefix") else None
