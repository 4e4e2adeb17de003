"""`guideway sets search | eval`: what is found in a set, and how well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from guideway.cli.console.output import AsJson, out, print_json, print_table, run
from guideway.settings import Settings
from guideway.usecases.sets.ask_sets import open_set, replies

if TYPE_CHECKING:
    pass

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
    ref, searched = run(open_set(Settings.from_environ(), name))
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
    ref, searched = run(open_set(Settings.from_environ(), name))
    found = scores(searched, asked, k)
    answered = answer_scores(asked, run(replies(Settings.from_environ(), endpoint, asked))) if endpoint else None
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
