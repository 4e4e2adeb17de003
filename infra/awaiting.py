"""Waiting for topics that others make."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Set

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.starting import Progress


async def say_or_await(
    cluster: Cluster, unseen: Set[str], coming: Set[str], progress: Progress, *, wait_s: float
) -> None:
    """Say what is with topics that this user does not see and may not create; wait for those that others make now.

    coming: topics that are wanted for the first time, so that others make them. wait_s: for these, at most.
    """
    if stuck := unseen - coming:
        progress(_not_seen(stuck))
    absent: Collection[str] = unseen & coming
    if absent and wait_s > 0:
        absent = await made_by_others(cluster, absent, progress, timeout_s=wait_s)
    if absent:
        progress(
            f"{len(absent)} topics are not there yet ({min(absent)}, …), and this user may not create them: the "
            "platform's `guideway steward` makes them, or whoever runs the cluster, with `guideway topics apply`; then "
            "events can be sent"
        )


def _not_seen(topics: Collection[str]) -> str:
    some, more = sorted(topics)[:5], len(topics) - 5
    return (
        f"this user sees no topic {', '.join(some)}{f' and {more} more' if more > 0 else ''}, and nobody makes it now: "
        "it lacks the right to describe it, or the topic is gone; whoever runs the cluster sees what is missing with "
        "`guideway namespaces show`, and mends it with `guideway namespaces create`"
    )


async def made_by_others(
    cluster: Cluster, wanted: Iterable[str], progress: Progress, *, timeout_s: float, look_s: float = 1.0
) -> list[str]:
    """Wait until others have made these topics; returns those that are not there after `timeout_s` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with administrator(cluster) as admin:
        absent = set(wanted)
        told = False
        while absent := absent - (await partitions_by_topic(admin)).keys():
            if asyncio.get_running_loop().time() > deadline:
                break
            if not told:
                progress(f"waiting for {len(absent)} topics, which the platform makes ({min(absent)}, …)")
                told = True
            await asyncio.sleep(look_s)
    return sorted(absent)
