"""`guideway send --stream`: a text printed while it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from guideway.cli.console.output import err, out, print_json
from guideway.schemas.failures import Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Reply

CUT: Final = "the text is cut at generation.max_tokens"


async def shown(stream: AsyncIterator[Partial | Reply], *, as_json: bool) -> Reply:
    """Print the pieces as they come, in a line of its own each as JSON, else one behind the other. Returns the reply.

    Of several samples the first one is printed so; where the request was begun again, its text from the beginning.
    """
    attempt, is_open = None, False
    async for one in stream:
        if not isinstance(one, Partial):
            if is_open:
                out.piece("\n")
                if isinstance(one, Completed) and one.samples[0].finish_reason == "length":
                    err.print(CUT)
            return one
        if as_json:
            print_json(one)
        elif one.sample == 0:
            if attempt not in (None, one.attempt):
                out.piece("\n")
                err.print("it was begun again: what stands above does not count")
            attempt, is_open = one.attempt, True
            out.piece(one.text)
    raise AssertionError("a stream ends with its reply")


def left(reply: Reply | Refusal) -> Reply | Refusal:
    """What is still to be printed where the text of a completed reply's first sample was.

    A doubtful value is printed as well: where the endpoint says so, it is null in place of the label that was written.
    """
    if not isinstance(reply, Completed) or 0 in {one.sample for one in reply.failed_samples or []}:
        return reply
    return reply if reply.samples[0].doubtful else msgspec.structs.replace(reply, samples=reply.samples[1:])
