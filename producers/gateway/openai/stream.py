"""A reply in OpenAI's form, piece by piece. Pure: what came → the chunks that are due."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from guideway.producers.client.partial_text import PartialText
from guideway.producers.gateway.openai.parameters import Chat, Completion
from guideway.producers.gateway.openai.reply import content_of, head, logprobs_of, numbered, usage, whole
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"


class Stream:
    """The chunks of one answer, in their order.

    What was sent cannot be taken back. So where a request is begun anew, its text is passed over as far as it was sent;
    and where it comes out otherwise, the stream ends with an error.
    """

    def __init__(self, request_id: str, asked: Chat | Completion, *, created_s: int) -> None:
        self._asked = asked
        self._head = head(request_id, asked, created_s=created_s, chunk=True)
        self._pieces = PartialText()
        self._now: dict[int, str] = {}
        """Sample → its text in the present attempt."""
        self._sent: dict[int, str] = {}
        """Sample → what was sent of it."""

    def piece(self, partial: Partial) -> Iterator[bytes]:
        """The chunks that are due when this comes."""
        before = self._pieces.attempt
        if not self._pieces.take(partial):
            return
        if self._pieces.attempt != before:
            self._now.clear()
        text = self._now[partial.sample] = self._now.get(partial.sample, "") + partial.text
        if text and text.startswith(self._sent.get(partial.sample, "")):
            yield from self._up_to(partial.sample, text)

    def end(self, reply: Completed) -> Iterator[bytes]:
        """The rest. Raises Refusal, after some chunks, where the text is not what was sent (internal_error), or where a
        sample has failed of which some was sent: half of a text must not look like a whole one."""
        samples = numbered(reply)
        for number, sample in samples:
            text = content_of(sample)
            if not text.startswith(self._sent.get(number, "")):
                raise Refusal(
                    FailureCode.INTERNAL_ERROR,
                    "a worker ended meanwhile, and another one has made another text: drop this one, and send the "
                    "request again",
                )
            yield from self._up_to(number, text)
            is_last = number == samples[-1][0]
            yield self._chunk(
                number,
                "",
                ended=sample.finish_reason,
                logprobs=logprobs_of(sample, self._asked),
                reply=reply if is_last else None,
            )
        for lost in reply.failed_samples or ():
            if self._sent.get(lost.sample):
                raise Refusal(lost.code, f"sample {lost.sample}: {lost.message}")
        if self._asked.includes_usage:
            yield sent({**self._head, "choices": [], "usage": usage(reply.usage)})
        yield DONE

    def _up_to(self, number: int, text: str) -> Iterator[bytes]:
        """What is missing of this text, which begins with what was sent."""
        if number not in self._sent and isinstance(self._asked, Chat):
            yield self._chunk(number, "", begins=True)
        before = self._sent.get(number, "")
        self._sent[number] = text
        if len(text) > len(before):
            yield self._chunk(number, text[len(before) :])

    def _chunk(
        self,
        number: int,
        text: str,
        *,
        begins: bool = False,
        ended: str | None = None,
        logprobs: dict[str, Any] | None = None,
        reply: Completed | None = None,
    ) -> bytes:
        said: dict[str, Any]
        if not isinstance(self._asked, Chat):
            said = {"text": text}
        elif begins:
            said = {"delta": {"role": "assistant", "content": "", "refusal": None}}
        else:
            said = {"delta": {"content": text} if text else {}}
        choice = {"index": number, **said, "logprobs": logprobs, "finish_reason": ended}
        # With the usage asked for, OpenAI's other chunks say that it is not theirs.
        told: dict[str, Any] = {"usage": None} if self._asked.includes_usage else {}
        if reply is not None:
            told |= {"guideway": whole(reply)}
        return sent({**self._head, "choices": [choice], **told})


def sent(body: dict[str, Any]) -> bytes:
    """One event of the stream."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
