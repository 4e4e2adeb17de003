"""One row of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from guideway.schemas.generation import Generation
from guideway.schemas.output import OutputRule, Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.messages.to_engine import Admit, Artefact


@dataclass(frozen=True)
class Case:
    """One row: what is asked, with which guidance, in which form."""

    name: str
    namespace: str
    text: str
    guidance: Sequence[Artefact] = ()
    instruction: str = ""
    output: OutputRule = field(default_factory=Text)
    pattern: str | None = None
    """The output rule as a regular expression, written independently of the grammar."""
    labels: Sequence[str] = ()
    """The output rule as the texts of which one is to be chosen."""
    max_tokens: int = 24

    @property
    def parts(self) -> list[Part]:
        instruction = [Part(kind="instruction", source="endpoint", text=self.instruction)] if self.instruction else []
        return [*instruction, Part(kind="input", source="caller", text=self.text)]

    def admit(self) -> Admit:
        request = Request(
            id=self.name,
            namespace=self.namespace,
            endpoint="ask",
            endpoint_version=1,
            parts=self.parts,
            guidance=[],
            output=self.output,
            words=[],
            generation=Generation(max_tokens=self.max_tokens),
            reply_to=[ReplyAddress(topic=f"gw.{self.namespace}.ask.out.v1")],
            deadline_ms=None,
        )
        return Admit(id=self.name, request=request, artefacts=list(self.guidance))
