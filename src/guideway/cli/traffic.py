"""`guideway send | cancel | tail`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.text import Text

from guideway.cli import given, streaming
from guideway.cli.console import interrupts
from guideway.cli.console.output import SECONDS, AsJson, err, in_red, out, print_json, run, while_heard
from guideway.cli.dlq.view import when
from guideway.printable import on_one_line
from guideway.producers.client.client import Client, split_address
from guideway.producers.client.reply_reader import received
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import reply_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.wire import Undecodable
from guideway.settings import Settings

_RUNNING: Final = "are `guideway endpoints` and `guideway worker` running, and has the worker logged `engine ready`?"
_HINT_S: Final = 15
_OF_ALL: Final = frozenset(
    {
        FailureCode.UNKNOWN_ENDPOINT,
        FailureCode.BROKER_UNREACHABLE,
        FailureCode.REPLY_ADDRESS_REFUSED,
        FailureCode.INVALID_SETTING,
    }
)
"""What is wrong with the address or the cluster, and so with every event."""

Via = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE", help="Your own namespace, to call an endpoint of another one that lets it."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("send")(send)
    app.command("cancel")(cancel)
    app.command("tail")(tail)


def send(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    text: Annotated[str | None, typer.Argument(help="Plain text, or a JSON object of fields; - reads lines.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="A file with one event a line.")] = None,
    guidance: Annotated[list[str] | None, typer.Option(help="Guidance to bring along: NAMESPACE/NAME.")] = None,
    generation: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Generation parameters that the endpoint lets a request set: {"seed": 1}.'),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Record key; comes back on the reply.")] = None,
    request_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the one event: to cancel it, or send it again.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(callback=SECONDS, help="Seconds after which the answer is of no use.")
    ] = None,
    timeout: Annotated[float, typer.Option(callback=SECONDS, help="Seconds to wait for a reply.")] = 120,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text of the one event while it is made.")] = False,
    via: Via = None,
    as_json: AsJson = False,
) -> None:
    """Send events to an endpoint and print their replies, in the order of the events.

    Of several, each result stands behind the number of its line. What cannot be sent, or gets no reply in time, is told
    with its line, and the others go on. Exit code 1 if any of them has no completed reply.

        guideway send /public/fact-yes-no "Is the Earth round?"
        guideway send /reviews/sentiment -f reviews.jsonl --json
        guideway send --stream /public/fact-sentence "Why is the sky blue?"
        guideway send --via shop /reviews/sentiment "Good soup."
        guideway send /shop/call "Good soup."    (the router of shop finds the endpoint)
    """
    lines = list(given.lines(text, file))
    if not lines:
        where = str(file) if file is not None else "standard input" if text == "-" else "the text"
        raise Refusal(FailureCode.INVALID_SETTING, f"nothing to send: {where} has no line that is not blank")
    if request_id is not None and len(lines) != 1:
        raise Refusal(FailureCode.INVALID_SETTING, f"--id names one event, these are {len(lines)}: send them apart")
    if stream and len(lines) != 1:
        raise Refusal(FailureCode.INVALID_SETTING, f"--stream prints one text, these are {len(lines)}: send them apart")

    asked = given.parameters(generation) if generation is not None else None
    interrupts.keeps("no line is answered yet; the same command sends them again" if len(lines) > 1 else "")

    async def work() -> int:
        async with Client(Settings.from_environ().answering_cluster()) as client:
            # A bound on what is under way keeps a file of a million lines out of memory twice over.
            slots = asyncio.Semaphore(512)
            hinting = asyncio.get_running_loop().call_later(
                _HINT_S, err.print, f"no reply after {_HINT_S} s, {_RUNNING} It is waited for up to {timeout:g} s."
            )

            async def one(line: str) -> Reply | Refusal:
                async with slots:
                    try:
                        send_it = client.stream if stream else client.submit
                        answer = send_it(
                            address,
                            given.content(line),
                            key=key,
                            request_id=request_id,
                            guidance=guidance or (),
                            generation=asked,
                            deadline_s=deadline,
                            timeout_s=timeout,
                            via=via,
                        )
                        if isinstance(answer, AsyncIterator):
                            return await streaming.shown(answer, as_json=as_json, on_first=hinting.cancel)
                        return await answer
                    except Refusal as refusal:
                        if refusal.code in _OF_ALL:
                            raise
                        return refusal
                    except TimeoutError:
                        return Refusal(FailureCode.DEADLINE_EXCEEDED, f"no reply within {timeout:g} s: {_RUNNING}")

            failures = 0
            async with asyncio.TaskGroup() as group:
                for number, answer in [(number, group.create_task(one(line))) for number, line in lines]:
                    reply = await answer
                    hinting.cancel()
                    told = streaming.left(reply) if stream and not as_json else reply
                    _print(told, number if len(lines) > 1 else None, as_json=as_json)
                    if len(lines) > 1:
                        interrupts.keeps(
                            f"the lines up to {number} are answered, of {lines[-1][0]}; go on with the rest, for what "
                            "was sent of it is answered to nobody"
                        )
                    failures += not isinstance(reply, Completed)
            return failures

    try:
        failures = run(work())
    except* Refusal as refusals:
        # All events meet with it: it is told once.
        raise refusals.exceptions[0] from None
    if len(lines) > 1 and failures and not as_json:
        err.print(f"{failures} of {len(lines)} events have no completed reply")
    if failures:
        raise typer.Exit(1)


def cancel(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The id under which the event was published.")],
    via: Via = None,
    as_json: AsJson = False,
) -> None:
    """Ask that a request end. Its own reply tells what came of it: `cancelled`, or its result where that was sooner.

    guideway send /public/fact-sentence "Why is the sky blue?" --id order-17 &
    guideway cancel /public/fact-sentence order-17
    """

    async def work() -> None:
        async with Client(Settings.from_environ().answering_cluster()) as client:
            await client.cancel(address, request_id, via=via)

    run(work())
    if as_json:
        print_json({"address": address, "id": request_id})
    else:
        out.print(f"cancellation of {request_id} published")


def tail(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    from_beginning: Annotated[bool, typer.Option(help="Also the replies that are there already.")] = False,
    limit: Annotated[int, typer.Option("-n", min=0, help="Stop after so many; 0: never.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Follow the replies of an endpoint: time, request id, key and result.

    Each request id comes once, from the endpoint's own reply topic; what failed shows why in place of its result.

    guideway tail /reviews/sentiment --json | jq -r 'select(.code) | .id'
    """
    topic = reply_topic(*split_address(address))

    async def work() -> None:
        cluster = Settings.from_environ().answering_cluster()
        count = 0
        async with received(
            cluster, topic, from_beginning=from_beginning, role="tail", on_undecodable=_say_undecodable
        ) as stream:
            if err.is_terminal:
                err.print(f"following the replies of {address}; Ctrl-C ends")
            async for record, reply in stream:
                print_received(record, reply, as_json=as_json)
                count += 1
                if count == limit:
                    return

    run(while_heard(work()))


def _say_undecodable(record: Record, error: Undecodable) -> None:
    err.print(f"partition {record.partition}, offset {record.offset}: no reply of this version ({error})")


def print_received(record: Record, reply: Reply, *, as_json: bool) -> None:
    """One reply of a stream: a line, or as many as samples, each with time, id and key."""
    time, key = when(record.timestamp_ms), _key(record.key)
    if as_json:
        print_json(msgspec.to_builtins(reply) | {"key": key, "time": time})
        return
    begun = Text(on_one_line(f"{time}  {reply.id}  {'-' if key is None else key}  "))
    match reply:
        case Completed():
            for sample in reply.samples:
                out.print(begun + Text(on_one_line(show_value(sample.value))))
                if sample.finish_reason == "length":
                    err.print(f"{reply.id}: {streaming.CUT}")
            for lost in reply.failed_samples or []:
                out.print(begun + in_red(lost.code.value, on_one_line(f"sample {lost.sample}: {lost.message}")))
        case Failed():
            out.print(begun + in_red(reply.code.value, on_one_line(reply.message)))


def _key(key: bytes | None) -> str | None:
    return None if key is None else key.decode("utf-8", "backslashreplace")


def print_reply(reply: Reply, *, as_json: bool, line: int | None = None) -> None:
    """One reply on one line (or as many lines as samples); what failed goes to standard error.

    line: of the event, where there were several.
    """
    if as_json:
        print_json(reply if line is None else {"line": line, **msgspec.to_builtins(reply)})
        return
    where = "" if line is None else f"line {line}: "
    match reply:
        case Completed():
            for sample in reply.samples:
                shown = show_value(sample.value)
                out.print(shown if line is None else f"{line}\t{on_one_line(shown)}")
                if sample.finish_reason == "length":
                    err.print(f"{where}{streaming.CUT}")
            for lost in reply.failed_samples or []:
                err.print(in_red(lost.code.value, f"{where}sample {lost.sample}: {lost.message}"))
        case Failed():
            err.print(in_red(reply.code.value, where + reply.message))


def show_value(value: object) -> str:
    """A typed value as a person reads it: text plain, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _print(answer: Reply | Refusal, line: int | None, *, as_json: bool) -> None:
    """What became of one event, with its line where that is not to be seen otherwise."""
    if not isinstance(answer, Refusal):
        print_reply(answer, as_json=as_json, line=line)
    elif as_json:
        told = {"line": line, "code": answer.code.value, "message": answer.message}
        print_json(told | {"retryable": answer.code.retryable})
    else:
        err.print(in_red(answer.code.value, ("" if line is None else f"line {line}: ") + answer.message))
