"""`guideway send | cancel | tail`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from guideway.cli.output import AsJson, err, in_red, out, print_json, run
from guideway.producers.client import Client, split_address
from guideway.producers.replies import replies
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.wire import REPLY, Undecodable
from guideway.settings import Settings


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
    key: Annotated[str | None, typer.Option(help="Record key; comes back on the reply.")] = None,
    request_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the one event: to cancel it, or send it again.")
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which the answer is of no use.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a reply.")] = 120,
    as_json: AsJson = False,
) -> None:
    """Send events to an endpoint and print their replies, in the order of the events.

    Exit code 1 if any reply is a failure.

        guideway send /public/round "Is the Earth round?"
        guideway send /team/sentiment -f reviews.jsonl --json
    """
    contents = list(_contents(text, file))
    if request_id is not None and len(contents) != 1:
        raise Refusal(FailureCode.INVALID_SETTING, f"--id names one event, these are {len(contents)}: send them apart")

    async def work() -> bool:
        async with Client(Settings.from_environ().brokers()) as client:
            # A bound on what is under way keeps a file of a million lines out of memory twice over.
            slots = asyncio.Semaphore(512)

            async def one(content: dict[str, Any] | str) -> Reply:
                async with slots:
                    return await client.submit(
                        address,
                        content,
                        key=key.encode() if key is not None else None,
                        request_id=request_id,
                        guidance=guidance or (),
                        deadline_s=deadline,
                        timeout_s=timeout,
                    )

            fine = True
            for waiting in [asyncio.create_task(one(content)) for content in contents]:
                try:
                    reply = await waiting
                except TimeoutError:
                    raise Refusal(
                        FailureCode.DEADLINE_EXCEEDED,
                        f"no reply within {timeout:.0f} s: are `guideway endpoints` and `guideway worker` running?",
                    ) from None
                print_reply(reply, as_json=as_json)
                fine = fine and isinstance(reply, Completed)
            return fine

    if not run(work()):
        raise typer.Exit(1)


def cancel(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The id under which the event was published.")],
    as_json: AsJson = False,
) -> None:
    """Ask that a request end. Its own reply tells what came of it: `cancelled`, or its result where that was sooner.

    guideway send /team/summary "A long text" --id order-17 &
    guideway cancel /team/summary order-17
    """

    async def work() -> None:
        async with Client(Settings.from_environ().brokers()) as client:
            await client.cancel(address, request_id)

    run(work())
    if as_json:
        print_json({"address": address, "id": request_id})
    else:
        out.print(f"cancellation of {request_id} published")


def tail(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    from_beginning: Annotated[bool, typer.Option(help="Also the replies that are there already.")] = False,
    limit: Annotated[int, typer.Option("-n", help="Stop after so many; 0: never.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Follow the replies on an endpoint's own reply topic, each request id once."""
    topic = names.reply_topic(*split_address(address))

    async def work() -> None:
        bootstrap = Settings.from_environ().brokers()
        count = 0
        async with replies(
            bootstrap, topic, from_beginning=from_beginning, role="tail", on_undecodable=_say_undecodable
        ) as stream:
            async for reply in stream:
                print_reply(reply, as_json=as_json)
                count += 1
                if count == limit:
                    return

    run(work())


def _say_undecodable(record: Record, error: Undecodable) -> None:
    err.print(f"offset {record.offset}: no reply of this version ({error})")


def print_reply(reply: Reply, *, as_json: bool) -> None:
    """One reply on one line (or as many lines as samples); what failed goes to standard error."""
    if as_json:
        sys.stdout.write(REPLY.encode(reply).decode() + "\n")
        sys.stdout.flush()
        return
    match reply:
        case Completed():
            for sample in reply.samples:
                out.print(show_value(sample.value), soft_wrap=True)
            for lost in reply.failed_samples or []:
                err.print(in_red(lost.code.value, f"sample {lost.sample}: {lost.message}"), soft_wrap=True)
        case Failed():
            err.print(in_red(reply.code.value, reply.message), soft_wrap=True)


def show_value(value: object) -> str:
    """A typed value as a person reads it: text plain, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _contents(text: str | None, file: Path | None) -> Iterator[dict[str, Any] | str]:
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} is not UTF-8 (byte {error.start}): convert it; UTF-16 is not read"
            ) from None
        except OSError as error:
            raise Refusal(FailureCode.INVALID_SETTING, f"{file} cannot be read: {error.strerror}") from None
    elif text == "-":
        lines = sys.stdin.read().removeprefix("\ufeff").split("\n")
    elif text is not None:
        lines = [text]
    else:
        raise Refusal(FailureCode.INVALID_SETTING, "nothing to send: give a text, - for standard input, or --file")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if line.lstrip().startswith("{"):
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise Refusal(FailureCode.UNDECODABLE_EVENT, f"line {number} is not JSON: {error}") from None
        else:
            yield line
