"""Removes what noida-db never removes itself: dead members of groups, and offsets of deleted topics.

It ends when its broker ends.

    python -m guideway.infra.caretaker --bootstrap 127.0.0.1:9092 --parent-pid 4711

After a kill -9 of a worker its group would wait for it for ever. A member is dead when the process whose id is in its
client id (`schemas.names.client_id`) is gone. This can be seen only because everything runs on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.group import LeaveGroupRequest

import guideway
from guideway.infra.processes import Process, birth, spawn
from guideway.infra.topic_lives import TopicLives, ends, forget
from guideway.schemas.names.clients import CLIENT_ID

PERIOD_S = 1.0


@dataclass(frozen=True)
class Member:
    """A member of a consumer group, as the broker describes it."""

    group: str
    member_id: str
    client_id: str

    @property
    def pid(self) -> int | None:
        """The process that joined; None if its client id does not say."""
        named = CLIENT_ID.fullmatch(self.client_id)
        return int(named["pid"]) if named else None


def members_to_remove(members: Iterable[Member], alive: Collection[int]) -> list[Member]:
    """The members whose process is not among the pids `alive`. A member without a process id stays."""
    return [member for member in members if member.pid is not None and member.pid not in alive]


def start(folder: Path, bootstrap: str, broker: Process, environ: Mapping[str, str]) -> Process:
    """Start a caretaker for the broker in a process of its own; its log goes to `folder`."""
    # The new Python must find guideway, even if it is only on sys.path.
    here = str(Path(guideway.__file__).parents[1])
    path = ":".join(part for part in (here, environ.get("PYTHONPATH")) if part)
    command = [sys.executable, "-m", "guideway.infra.caretaker"]
    command += ["--bootstrap", bootstrap, "--parent-pid", str(broker.pid)]
    return spawn(command, log=folder / "caretaker.log", environ={**environ, "PYTHONPATH": path})


async def members(admin: AIOKafkaAdminClient) -> list[Member]:
    """Every member of every consumer group of the one broker."""
    found = []
    for group, protocol, *_ in await admin.list_consumer_groups():
        if protocol != "consumer":
            continue
        # One at a time: aiokafka reads answers of version 3 as version 2, and fails at the second group.
        for response in await admin.describe_consumer_groups([group]):
            for _error, name, _state, _type, _protocol, listed, *_rest in response.groups:
                found += [Member(name, member_id, client_id) for member_id, client_id, *_more in listed]
    return found


async def remove(admin: AIOKafkaAdminClient, member: Member) -> None:
    """Remove the member from its group, as if it had left."""
    coordinator = await admin.find_coordinator(member.group)
    response = await admin._client.send(coordinator, LeaveGroupRequest(member.group, member.member_id))
    outcome = for_code(response.error_code).__name__ if response.error_code else "removed"
    print(f"{member.group}: {member.member_id} of {member.client_id} is dead: {outcome}", flush=True)


async def watch(bootstrap: str, broker: Process) -> None:
    """Once a second, until the broker ends, look at all groups and topics and remove what is dead."""
    lives = TopicLives()
    while broker.alive:
        try:
            async with contextlib.AsyncExitStack() as stack:
                admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
                stack.push_async_callback(admin.close)
                await admin.start()
                while broker.alive:
                    there = await members(admin)
                    alive = {pid for member in there if (pid := member.pid) is not None and birth(pid)}
                    for member in members_to_remove(there, alive):
                        await remove(admin, member)
                    if partitions := lives.look(await ends(admin)):
                        await forget(admin, partitions)
                    await asyncio.sleep(PERIOD_S)
        except (KafkaError, OSError, TimeoutError) as error:
            if broker.alive:
                print(f"cannot look at the groups: {error!r}", flush=True)
            await asyncio.sleep(PERIOD_S)


def main() -> None:
    """Watch one broker until it ends."""
    parser = argparse.ArgumentParser(prog="guideway.infra.caretaker", description=watch.__doc__)
    parser.add_argument("--bootstrap", required=True, help="the broker's address, host:port")
    parser.add_argument("--parent-pid", required=True, type=int, help="the broker's process")
    options = parser.parse_args()
    broker = Process(options.parent_pid, birth(options.parent_pid) or "")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(options.bootstrap, broker))


if __name__ == "__main__":
    main()
