"""Pieces of texts put together: which of them count, and what the reply adds to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed, Reply


class PartialText:
    """The texts of one request as far as they are known. Pieces may be repeated, missing, or of an attempt given up.

    What `take` and `rest` return, of each sample's highest attempt one piece behind the other, is the text of a
    completed reply.
    """

    def __init__(self) -> None:
        self.attempt = -1
        """The highest that was seen."""
        self._texts: dict[int, list[str]] = {}
        """Sample → its pieces from 0 on, without a gap."""

    @property
    def texts(self) -> Mapping[int, str]:
        """Sample → its text so far."""
        return {sample: "".join(pieces) for sample, pieces in self._texts.items()}

    def take(self, piece: Partial) -> bool:
        """Whether this piece is the next one of its text. A first one of a higher attempt drops all that was before."""
        if piece.attempt < self.attempt:
            return False
        if piece.attempt > self.attempt:
            self.attempt = piece.attempt
            self._texts.clear()
        known = self._texts.get(piece.sample, [])
        # After a gap nothing is the next one: what is missing comes with the reply.
        if piece.number != len(known):
            return False
        self._texts.setdefault(piece.sample, []).append(piece.text)
        return True

    def rest(self, reply: Reply) -> list[Partial]:
        """What is missing of the reply's texts, as pieces of our own; of all texts, where they are of another attempt.

        Empty for a failed reply: what was seen is then nobody's text.
        """
        if isinstance(reply, Failed):
            return []
        whole = _texts_of(reply)
        known = self.texts
        if any(not whole[sample].startswith(known.get(sample, "")) for sample in whole):
            self.attempt = max(self.attempt + 1, reply.partials.attempt if reply.partials is not None else 0)
            self._texts.clear()
            known = {}
        self.attempt = max(self.attempt, 0)
        missing = []
        for sample, text in whole.items():
            if left := text[len(known.get(sample, "")) :]:
                pieces = self._texts.setdefault(sample, [])
                missing.append(
                    Partial(
                        id=reply.id,
                        namespace=reply.namespace,
                        endpoint=reply.endpoint,
                        sample=sample,
                        attempt=self.attempt,
                        number=len(pieces),
                        text=left,
                    )
                )
                pieces.append(left)
        return missing


def _texts_of(reply: Completed) -> dict[int, str]:
    """Sample, by its number among those that were asked for → its text."""
    lost = {one.sample for one in reply.failed_samples or []}
    numbers = (number for number in range(len(reply.samples) + len(lost)) if number not in lost)
    return {number: sample.text for number, sample in zip(numbers, reply.samples, strict=True)}
