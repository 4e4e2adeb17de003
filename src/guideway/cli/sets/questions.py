"""`guideway sets search | eval`: what is found in a set, and how well."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.cli.console.output import AsJson, out, print_json, print_table, run
from guideway.producers.client.client import Client
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import RetrievalSet
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.reply import Reply
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.usecases.retrieval import a_qdrant, an_embedder

if TYPE_CHECKING:
    from guideway.training.sets.evaluate import Pair, Searched

VersionArgument = Annotated[str, typer.Argument(metavar="NAMESPACE/NAME[@VERSION]")]


def add_to(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("search")(search)
    group.command("eval")(evaluate)


def search(
    name: VersionArgument,
    query: Annotated[str, typer.Argument(help="What to look up.")],
    limit: Annotated[int, typer.Option("-n", min=1, max=10_000, help="So many passages.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Look a text up in a set, as a worker would."""
    ref, searched = _searched(name)
    (hits,) = searched.search([query], limit)
    if as_json:
        for hit in hits:
            print_json({"set": str(ref), "id": hit.id, "score": round(hit.score, 4), "text": hit.text})
    else:
        print_table(("score", "id", "passage"), [(f"{hit.score:.3f}", hit.id, hit.text) for hit in hits])


def evaluate(
    name: VersionArgument,
    pairs: Annotated[Path, typer.Argument(help="JSONL with `question`, `id` of a passage or document, and `answer`.")],
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Of the first so many.")] = 5,
    endpoint: Annotated[
        str | None, typer.Option(help="/NAMESPACE/ENDPOINT to ask as well: share of replies that hold the `answer`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a set's passages are found again, and with --endpoint how well its questions are answered."""
    from guideway.training.sets.evaluate import answer_scores, read_pairs, scores

    asked = read_pairs(pairs)
    ref, searched = _searched(name)
    found = scores(searched, asked, k)
    answered = answer_scores(asked, run(_replies(endpoint, asked))) if endpoint else None
    if as_json:
        print_json({"set": str(ref), **msgspec.to_builtins(found), "answers": answered})
        return
    print_table(
        ("set", "questions", f"recall@{k}", "mean reciprocal rank"),
        [(ref, found.questions, f"{found.recall:.3f}", f"{found.mean_reciprocal_rank:.3f}")],
    )
    for question in found.missed[:10]:
        out.print(f"not found: {question}")
    if answered is not None:
        rows = [(one.set, one.questions, f"{one.accuracy:.3f}") for one in answered]
        print_table(("answered from", "questions", "accuracy"), rows)


async def _replies(endpoint: str, pairs: list[Pair]) -> list[Reply]:
    async with Client(Settings.from_environ().answering_brokers()) as client:
        slots = asyncio.Semaphore(256)

        async def one(pair: Pair) -> Reply:
            async with slots:
                return await client.submit(endpoint, pair.question, timeout_s=300)

        try:
            return await asyncio.gather(*map(one, pairs))
        except TimeoutError:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED,
                "no reply within 300 s: are `guideway endpoints` and `guideway worker` running?",
            ) from None


def _searched(name: str) -> tuple[SetRef, Searched]:
    settings = Settings.from_environ()

    async def work() -> tuple[SetRef, RetrievalSet]:
        async with open_catalogue() as reader:
            return found_set(reader.catalogue, name)

    ref, manifest = run(work())
    embedder = an_embedder(settings)
    from guideway.training.sets.evaluate import Searched

    store = ArtefactStore(settings.store)
    return ref, Searched.of(manifest, str(ref), store, settings.artefact_cache, embedder, a_qdrant(settings))


def open_catalogue() -> CatalogueFollower:
    return CatalogueFollower(Settings.from_environ().answering_brokers())


def found_set(catalogue: Catalogue, name: str) -> tuple[SetRef, RetrievalSet]:
    """By `NAMESPACE/NAME[@VERSION]`. Raises Refusal(invalid_setting | guidance_unknown)."""
    plain, at, version = name.strip("/").partition("@")
    namespace, _ = split_name(plain)
    if at and not version.isdigit():
        raise Refusal(FailureCode.INVALID_SETTING, f"{name!r}: a version is a number, as `guideway sets list` shows it")
    try:
        return catalogue.retrieval_set(name.strip("/"), for_namespace=namespace)
    except Refusal as refusal:
        sets = [f"{one.namespace}/{one.name}" for one in catalogue.identities("set")]
        if refusal.code is not FailureCode.GUIDANCE_UNKNOWN or (plain in sets and not at):
            raise
        near = "" if plain in sets else did_you_mean(plain, sets)
        raise Refusal(refusal.code, f"there is no retrieval set {name}: {near}`guideway sets list` lists all") from None


def split_name(name: str) -> tuple[str, str]:
    """(namespace, name). Raises Refusal(invalid_setting)."""
    namespace, _, plain = name.strip("/").partition("/")
    if not (names.NAME.fullmatch(namespace) and names.NAME.fullmatch(plain)):
        raise Refusal(FailureCode.INVALID_SETTING, f"{name!r} is no set's name: write NAMESPACE/NAME")
    return namespace, plain
