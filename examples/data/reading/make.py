"""Makes the rows that teach an endpoint to answer from its passages, whatever is true in the world.

`python make.py` writes, beside itself, the same bytes every time:

- `facts.jsonl`: passages, most of them untrue, for the set `library/reading`;
- `train.jsonl`, `eval.jsonl`: questions and what those passages answer: yes, no, or unknown. No subject is in both;
- `contrary.jsonl`: passages on the subjects of `eval.jsonl` that say the contrary, for the set `library/contrary`;
- `agree.pairs.jsonl`, `contrary.pairs.jsonl`: the same questions with what each of the two sets answers.

Questions that do not find their own passage first are left out, for these rows are to teach reading, not finding.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from guideway.settings import Settings
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.settings import DEFAULT_EMBEDDING

HERE = Path(__file__).parent
EVAL_SHARE = 5
"""One subject of so many is for evaluation."""
QUESTIONS_OF_NOTHING = 4
"""One subject of so many has no passage."""
INVENTED = 24
"""Subjects of each group that nobody can know."""


@dataclass(frozen=True)
class Subject:
    """What passages are about."""

    phrase: str
    group: str
    plural: bool

    def forms(self, phrase: str) -> dict[str, str]:
        """The words of a template; phrase: what stands for the subject in it."""
        many = self.plural
        return {
            "s": phrase,
            "is": "are" if many else "is",
            "does": "do" if many else "does",
            "has": "have" if many else "has",
            "a": "" if many else "a ",
        }

    @property
    def pronoun(self) -> str:
        return "they" if self.plural else "it"


@dataclass(frozen=True)
class Fact:
    """What a passage says of its subject by one sentence, and the questions to which it has an answer."""

    relation: str
    asked: str
    other: str
    stated: str
    negated: bool

    def flipped(self) -> Fact:
        """The contrary: to every question of this fact the other answer."""
        if self.negated:
            return Fact(self.relation, self.asked, self.other, self.asked, False)
        stated = self.other if self.stated == self.asked else self.asked
        return Fact(self.relation, self.asked, self.other, stated, False)

    def answers(self, *, both: bool) -> dict[str, str]:
        """What is asked → its answer."""
        answers = {self.asked: "yes" if self.stated == self.asked and not self.negated else "no"}
        if both and not self.negated:
            answers[self.other] = "no" if answers[self.asked] == "yes" else "yes"
        return answers


@dataclass
class Row:
    """A question of one passage."""

    question: str
    answer: str
    contrary: str = ""


@dataclass
class Passage:
    """A passage, its contrary, and what they answer."""

    name: str
    text: str
    contrary: str = ""
    rows: list[Row] = field(default_factory=list)


class Writer:
    """Writes passages and questions by `words.yaml`."""

    def __init__(self, words: dict[str, Any], rng: random.Random) -> None:
        self._words = words
        self._rng = rng

    def subjects(self) -> list[Subject]:
        """Real ones and invented ones, in an order of chance."""
        told = [
            Subject(phrase.rstrip("*"), group, phrase.endswith("*"))
            for group, phrases in self._words["subjects"].items()
            for phrase in phrases.split(", ")
        ]
        for group, pattern in self._words["invented"].items():
            names = {self._name() for _ in range(INVENTED)}
            told += [Subject(pattern.format(name), group, False) for name in sorted(names)]
        self._rng.shuffle(told)
        return told

    def passage(self, subject: Subject) -> Passage:
        """Two or three facts, in one to three sentences, and questions: of each fact, and one of none of them."""
        relations = self._relations(subject)
        count = self._rng.choice((1, 2, 2, 3))
        facts = [self._fact(subject, name) for name in relations[:count]]
        passage = Passage(subject.phrase, self._text(subject, facts), self._text(subject, [f.flipped() for f in facts]))
        for fact in facts:
            flipped = fact.flipped()
            for what, answer in fact.answers(both=self._rng.random() < 0.5).items():
                question = self._question(subject, fact.relation, what)
                passage.rows.append(Row(question, answer, flipped.answers(both=True)[what]))
        for name in relations[count : count + 1]:
            asked = self._fact(subject, name).asked
            passage.rows.append(Row(self._question(subject, name, asked), "unknown", "unknown"))
        return passage

    def question_of_nothing(self, subject: Subject) -> Row:
        name = self._relations(subject)[0]
        return Row(self._question(subject, name, self._fact(subject, name).asked), "unknown", "unknown")

    def _name(self) -> str:
        starts, ends = (self._words["syllables"][which].split() for which in ("first", "last"))
        return ("".join(self._rng.choice(part) for part in (starts, starts, ends))).capitalize()

    def _relations(self, subject: Subject) -> list[str]:
        told = [name for name, one in self._words["relations"].items() if self._fits(subject, name, one)]
        weighted = [name for name in told for _ in range(self._words["relations"][name].get("weight", 1))]
        self._rng.shuffle(weighted)
        return list(dict.fromkeys(weighted))

    @staticmethod
    def _fits(subject: Subject, name: str, relation: dict[str, Any]) -> bool:
        return subject.group in relation["of"].split() and not (subject.plural and name == "kind")

    def _fact(self, subject: Subject, relation: str) -> Fact:
        asked, other = self._rng.choice(self._options(subject, relation))
        if self._rng.random() < 0.5:
            asked, other = other, asked
        stated = asked if self._rng.random() < 0.5 else other
        negated = stated == other and self._rng.random() < 0.4
        return Fact(relation, asked, other, asked if negated else stated, negated)

    def _options(self, subject: Subject, relation: str) -> list[tuple[str, str]]:
        """Pairs that exclude each other."""
        listed = self._words["relations"][relation]["pairs"].split(", ")
        if all("/" in pair for pair in listed):
            return [(one, two) for one, two in (pair.split("/") for pair in listed)]
        return [(one, two) for one in listed for two in listed if one != two]

    def _question(self, subject: Subject, relation: str, what: str) -> str:
        asked = self._rng.choice(self._words["relations"][relation]["asks"].split(" | "))
        return _sentence(self._filled(asked, subject, subject.phrase, relation, what, "")).rstrip(".") + "?"

    def _text(self, subject: Subject, facts: list[Fact]) -> str:
        written = []
        for place, fact in enumerate(facts):
            relation = self._words["relations"][fact.relation]
            other = fact.other if fact.asked == fact.stated else fact.asked
            kinds = ["says"] * 3 + ["contrasts"] if not fact.negated else ["denies"] * 2 + ["contrasts_denied"]
            kind = self._rng.choice(kinds)
            stated = fact.stated
            if kind == "contrasts_denied":
                kind, stated, other = "contrasts", fact.other, fact.asked
            said = self._rng.choice(relation[kind].split(" | "))
            phrase = subject.pronoun if place and self._rng.random() < 0.7 else subject.phrase
            said = self._filled(said, subject, phrase, fact.relation, stated, other)
            lead = self._rng.choice(self._words["leads"]) if self._rng.random() < 0.4 else ""
            tail = self._rng.choice(self._words["tails"]) if self._rng.random() < 0.3 else ""
            written.append(_sentence(lead + said + tail))
        if self._rng.random() < 0.25:
            written[0] = f"{subject.phrase.upper()}, n. {written[0]}"
        elif self._rng.random() < 0.3:
            filler = self._rng.choice(self._words["fillers"])
            written.insert(
                self._rng.choice((0, len(written))), _sentence(filler.format(**subject.forms(subject.phrase)))
            )
        return " ".join(written)

    def _filled(self, template: str, subject: Subject, phrase: str, relation: str, what: str, other: str) -> str:
        """`{x}`: what, `{xs}`: the same as a verb of the subject; `{y}`, `{ys}`: the other; `{like}`: a likeness."""
        likeness = self._words["likenesses"].get(what, "can be")
        return template.format(
            x=what, y=other, xs=_verb(what, subject), ys=_verb(other, subject), like=likeness, **subject.forms(phrase)
        )


def _verb(base: str, subject: Subject) -> str:
    if subject.plural or not base:
        return base
    first, _, rest = base.partition(" ")
    if first.endswith(("o", "sh", "ch", "ss", "x")):
        first += "es"
    elif first.endswith("y") and first[-2] not in "aeiou":
        first = first[:-1] + "ies"
    else:
        first += "s"
    return f"{first} {rest}".strip()


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def _written() -> list[Passage]:
    answers = {"says": "yes", "denies": "no", "leaves_open": "unknown"}
    told = []
    for place, one in enumerate(yaml.safe_load((HERE / "written.yaml").read_text(encoding="utf-8"))):
        asked = [(question, answers[kind]) for kind in answers for question in one[kind].split("? ")]
        rows = [Row(question.rstrip("?") + "?", answer) for question, answer in asked]
        told.append(Passage(f"written-{place + 1}", one["text"], rows=rows))
    return told


def _found(passages: list[Passage], sets: list[list[str]], embedder: Embedder) -> None:
    """Leave out the questions that find another passage than their own in one of `sets`, which begin alike."""
    vectors = [np.array([*embedder.embed(texts)]) for texts in sets]
    for place, passage in enumerate(passages):
        asked = np.array([*embedder.embed([row.question for row in passage.rows])])
        firsts = np.logical_and.reduce([(asked @ of_set.T).argmax(1) == place for of_set in vectors])
        passage.rows[:] = [row for row, first in zip(passage.rows, firsts, strict=True) if first]


def _store(name: str, rows: list[dict[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Everything, from one seed."""
    writer = Writer(yaml.safe_load((HERE / "words.yaml").read_text(encoding="utf-8")), random.Random(20261))
    train = _written()
    held_out: list[Passage] = []
    open_train: list[Row] = []
    open_eval: list[Row] = []
    for place, subject in enumerate(writer.subjects()):
        is_eval = place % EVAL_SHARE == 0
        if place % QUESTIONS_OF_NOTHING == 1:
            (open_eval if is_eval else open_train).append(writer.question_of_nothing(subject))
        else:
            (held_out if is_eval else train).append(writer.passage(subject))
    embedder = Embedder(DEFAULT_EMBEDDING, Settings.from_environ().model_cache)
    every = [one.text for one in [*held_out, *train]]
    _found(held_out, [every, [one.contrary for one in held_out]], embedder)
    _found([*held_out, *train], [every], embedder)
    _store("facts.jsonl", [{"id": one.name, "text": one.text} for one in [*train, *held_out]])
    _store("contrary.jsonl", [{"id": one.name, "text": one.contrary} for one in held_out])
    for name, passages, more in (("train", train, open_train), ("eval", held_out, open_eval)):
        rows = {row.question: row.answer for row in (*(row for one in passages for row in one.rows), *more)}
        _store(f"{name}.jsonl", [{"text": question, "label": answer} for question, answer in rows.items()])
    asked = [(row, one.name) for one in held_out for row in one.rows]
    _store("agree.pairs.jsonl", [{"question": row.question, "id": name, "answer": row.answer} for row, name in asked])
    _store(
        "contrary.pairs.jsonl", [{"question": row.question, "id": name, "answer": row.contrary} for row, name in asked]
    )


if __name__ == "__main__":
    main()
