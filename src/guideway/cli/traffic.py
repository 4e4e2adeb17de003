"""`guideway send | tail`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from aiokafka.structs import TopicPartition

from guideway.cli.output import AsJson, err, in_red, out, run
from guideway.delivery.clients import make_consumer, started
from guideway.delivery.topic_directory import TopicDirectory
from guideway.producers.client import Client, split_address
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.wire import REPLY, Undecodable
from guideway.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("send")(send)
    app.command("tail")(tail)


def send(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    text: Annotated[str | None, typer.Argument(help="Plain text, or a JSON object of fields; - reads lines.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="A file with one event a line.")] = None,
    guidance: Annotated[list[str] | None, typer.Option(help="Guidance to bring along: NAMESPACE/NAME.")] = None,
    key: Annotated[str | None, typer.Option(help="Record key; comes back on the reply.")] = None,
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


def tail(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    from_beginning: Annotated[bool, typer.Option(help="Also the replies that are there already.")] = False,
    limit: Annotated[int, typer.Option("-n", help="Stop after so many; 0: never.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Follow the replies on an endpoint's own reply topic."""
    topic = names.reply_topic(*split_address(address))

    async def work() -> None:
        bootstrap = Settings.from_environ().brokers()
        start = "earliest" if from_beginning else "latest"
        reading = make_consumer(bootstrap, "tail", auto_offset_reset=start)
        directory = TopicDirectory(bootstrap, names.client_id("tail"))
        async with started(directory, bootstrap), started(reading, bootstrap) as consumer:
            partitions = await directory.partitions(topic)
            if not partitions:
                raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"there is no endpoint {address} (no topic {topic})")
            consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
            count = 0
            async for record in consumer:
                try:
                    print_reply(REPLY.decode(record.value), as_json=as_json)
                except Undecodable as error:
                    err.print(f"offset {record.offset}: no reply of this version ({error})", markup=False)
                count += 1
                if count == limit:
                    return

    run(work())


def print_reply(reply: Reply, *, as_json: bool) -> None:
    """One reply on one line (or as many lines as samples)."""
    if as_json:
        sys.stdout.write(REPLY.encode(reply).decode() + "\n")
        sys.stdout.flush()
        return
    match reply:
        case Completed():
            for sample in reply.samples:
                out.print(show_value(sample.value), markup=False, soft_wrap=True)
        case Failed():
            err.print(in_red(reply.code.value, reply.message), soft_wrap=True)


def show_value(value: object) -> str:
    """A typed value as a person reads it: text plain, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _contents(text: str | None, file: Path | None) -> Iterator[dict[str, Any] | str]:
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(FailureCode.INVALID_SETTING, f"{file} cannot be read: {error}") from None
    elif text == "-":
        lines = sys.stdin.read().split("\n")
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
