"""`guideway send --stream`: a text printed while it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from guideway.cli.console.output import err, out, print_json
from guideway.schemas.failures import Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Reply

CUT: Final = "the text is cut at generation.max_tokens"


async def shown(stream: AsyncIterator[Partial | Reply], *, as_json: bool, on_first: Callable[[], object]) -> Reply:
    """Print the pieces as they come, in a line of its own each as JSON, else one behind the other. Returns the reply.

    Of several samples the first one is printed so; where the request was begun again, its text from the beginning.
    on_first: is called when the first piece, or the reply, is there.
    """
    attempt, reply = None, None
    try:
        async for one in stream:
            on_first()
            if not isinstance(one, Partial):
                reply = one
                break
            if as_json:
                print_json(one)
            elif one.sample == 0:
                if attempt not in (None, one.attempt):
                    out.piece("\n")
                    err.print("it was begun again: what stands above does not count")
                attempt = one.attempt
                out.piece(one.text)
    finally:
        # Whatever is told next, an interruption too, stands on a line of its own.
        if attempt is not None:
            out.piece("\n")
    assert reply is not None, "a stream ends with its reply"
    if attempt is not None and isinstance(reply, Completed) and reply.samples[0].finish_reason == "length":
        err.print(CUT)
    return reply


def left(reply: Reply | Refusal) -> Reply | Refusal:
    """What is still to be printed where the text of a completed reply's first sample was.

    A doubtful value is printed as well: where the endpoint says so, it is null in place of the label that was written.
    """
    if not isinstance(reply, Completed) or 0 in {one.sample for one in reply.failed_samples or []}:
        return reply
    return reply if reply.samples[0].doubtful else msgspec.structs.replace(reply, samples=reply.samples[1:])
