"""Makes `tune.jsonl`, `eval.jsonl` and the router of the demo: `python examples/data/routing/make.py SHARED`.

SHARED: a folder with `chatterbot_qa.{train,eval}.jsonl` (PyPI chatterbot-corpus, BSD-3) and `facts/wordnet.jsonl`
(WordNet). All other rows are from this folder and the one above. A row is {"text", "endpoint", "source"}; the endpoint
of a foreign text is empty. No text is in two of the files, and rows of `eval` come from `eval` files only.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
ROUTER: Final = HERE.parents[1] / "demo" / "routing" / "router.yaml"
EXAMPLES, TUNE, EVAL = 60, 60, 60
NONE_EXAMPLES: Final = 200
ROWS: Final = {
    "/reviews/sentiment": "uci_sentiment",
    "/library/topic": "wordnet_topics",
    "/library/address": "us_address_json",
}
ASKED: Final = {
    "tune": ["What is {a} {term}?", "What does {term} mean?", "Define {term}.", "What is the meaning of {term}?"],
    "eval": ["What is {a} {term}?", "What does {term} mean?", "Define {term}.", "Explain the word {term}."],
}
_DEFINED: Final = re.compile(r"(what (is|are)|define) (an? |the )?[\w-]+( [\w-]+)?\??", re.IGNORECASE)
"""Chatterbot asks some of these: they are questions for the endpoint of facts."""


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def made(shared: Path) -> dict[str, list[dict[str, str]]]:
    chance = random.Random(17)
    found: dict[str, list[dict[str, str]]] = {"examples": [], "tune": [], "eval": []}

    def put(where: str, endpoint: str, source: str, texts: list[str]) -> None:
        found[where] += [{"text": text, "endpoint": endpoint, "source": source} for text in texts]

    for endpoint, name in ROWS.items():
        train = [row["text"] for row in rows(HERE.parent / f"{name}.train.jsonl")]
        chance.shuffle(train)
        put("examples", endpoint, name, train[:EXAMPLES])
        put("tune", endpoint, name, train[EXAMPLES : EXAMPLES + TUNE])
        held = [row["text"] for row in rows(HERE.parent / f"{name}.eval.jsonl")]
        put("eval", endpoint, name, chance.sample(held, EVAL))
    written = yaml.safe_load((HERE / "written.yaml").read_text("utf-8"))
    put("examples", "/public/number", "written", written["number"]["tune"][:EXAMPLES])
    put("tune", "/public/number", "written", written["number"]["tune"][EXAMPLES:])
    put("eval", "/public/number", "written", written["number"]["eval"])
    terms = [row["term"] for row in rows(shared / "facts" / "wordnet.jsonl")]
    terms = [term for term in terms if re.fullmatch(r"[a-z]{3,}", term)]
    chance.shuffle(terms)
    asked = [*_asked(terms[: EXAMPLES + TUNE], "tune")]
    put("examples", "/public/ask-plain", "wordnet", asked[:EXAMPLES])
    put("tune", "/public/ask-plain", "wordnet", asked[EXAMPLES:])
    put("eval", "/public/ask-plain", "wordnet", [*_asked(terms[EXAMPLES + TUNE :][:EVAL], "eval")])
    trivia = [row["text"] for row in rows(shared / "chatterbot_qa.train.jsonl")]
    trivia = [text for text in trivia if not _DEFINED.fullmatch(text)]
    chance.shuffle(trivia)
    foreign = written["foreign"]["tune"]
    chance.shuffle(foreign)
    half = NONE_EXAMPLES // 2
    put("examples", "", "written", foreign[:half])
    put("examples", "", "chatterbot_qa", trivia[:half])
    put("tune", "", "written", foreign[half:])
    put("tune", "", "chatterbot_qa", trivia[half : half + TUNE])
    held = [row["text"] for row in rows(shared / "chatterbot_qa.eval.jsonl")]
    put("eval", "", "written", written["foreign"]["eval"])
    put("eval", "", "chatterbot_qa", [text for text in held if not _DEFINED.fullmatch(text)])
    return found


def _asked(terms: list[str], which: str) -> Iterator[str]:
    for number, term in enumerate(terms):
        form = ASKED[which][number % len(ASKED[which])]
        yield form.format(term=term, a="an" if term[0] in "aeiou" else "a")


def router(examples: list[dict[str, str]]) -> str:
    """The router of the demo, with these examples."""
    head = (HERE / "router.head.yaml").read_text("utf-8")
    lines = [head.rstrip(), "examples:", "  texts:"]
    for endpoint in dict.fromkeys(row["endpoint"] for row in examples):
        lines.append(f"    {endpoint}:" if endpoint else "  none:")
        indent = "      " if endpoint else "    "
        lines += [
            f"{indent}- {json.dumps(row['text'], ensure_ascii=False)}"
            for row in examples
            if row["endpoint"] == endpoint
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    found_all = made(Path(sys.argv[1]))
    ROUTER.write_text(router(found_all.pop("examples")), "utf-8")
    for name, found in found_all.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in found]
        (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        print(name, len(lines))


if __name__ == "__main__":
    main()
