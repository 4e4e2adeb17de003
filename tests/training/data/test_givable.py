"""Answers that serving could never give are found while rows are read, and not once a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.workers.engine.conftest import base_of, tiny_llama, tiny_tokenizer

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Json, OutputRule, Regex, WordLabels
from guideway.training.data.answers import spelled
from guideway.training.data.corrections import read_corrections
from guideway.training.data.examples import Example, read_examples
from guideway.training.data.givable import check_givable
from guideway.training.fitting.encoding import Encoder
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data

ORDER = Json(
    schema={
        "type": "object",
        "properties": {"item": {"type": "string", "maxLength": 20}, "count": {"type": "integer", "minimum": 1}},
        "required": ["item", "count"],
    }
)
SHARE = Json(schema={"type": "number", "minimum": 0, "maximum": 0.95})
CODE = Regex(pattern="[A-Z]{2}[0-9]{2}")
WORDS = WordLabels(labels=["noun", "verb"], words_from="text")
TEXT = "dogs bark"


@pytest.mark.parametrize(
    ("rule", "value", "says"),
    [
        (ORDER, {"count": 2, "item": 'a "b" ü'}, ""),
        (ORDER, {"item": "tea", "count": 0}, 'from \'0}\' on, behind \'{"item":"tea","count":\''),
        (ORDER, {"item": "tea"}, "from '}' on"),
        (ORDER, {"item": "tea", "count": 1, "colour": "red"}, 'on, behind \'{"item":"tea","count":1\''),
        (ORDER, {"item": "x" * 21, "count": 1}, "from 'x\""),
        (SHARE, 0.9, ""),
        (SHARE, 0.96, "from '6' on, behind '0.9'"),
        (CODE, "AB12", ""),
        (CODE, "AB1", "it ends too early"),
        (CODE, "AB123", "from '3' on, behind 'AB12'"),
        (WORDS, [["dogs", "noun"], ["bark", "verb"]], ""),
        (WORDS, "dogs/noun bark/verb", ""),
        (WORDS, [["dogs", "noun"], ["run", "verb"]], "word 2 of its text is 'bark', and its answer has 'run/verb'"),
        (WORDS, "dogs/noun bark/adverb", "'bark/adverb' has none of the task's labels"),
        (WORDS, [["dogs", "noun"]], "its text has 2 words, and its answer labels 1"),
    ],
)
def test_what_is_said_before_is_what_training_would_say(rule: OutputRule, value: object, says: str) -> None:
    answer = spelled(value, rule)
    tokenizer = tiny_tokenizer()
    encoder = Encoder(
        base_of(tiny_llama(tokenizer), tokenizer), instruction="", output=rule, max_tokens=512, answer_tokens=200
    )
    if says:
        with pytest.raises(ValueError, match=r"answer|labels") as caught:
            check_givable(answer, TEXT, rule)
        assert says in str(caught.value)
        with pytest.raises(Refusal, match="not of the task's output type"):
            encoder.encode([Example(1, TEXT, answer)])
    else:
        check_givable(answer, TEXT, rule)
        assert encoder.encode([Example(1, TEXT, answer)])


def test_all_such_rows_of_a_file_are_told_by_their_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"order {n}", "label": {"item": "tea", "count": n}} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"text": "x"}]))
    task = Task(namespace="shop", endpoint="o", model_sizes=["small"], output=ORDER, data=Data(train="rows.jsonl"))
    with pytest.raises(Refusal, match="serving could never give it") as caught:
        read_examples(task, tmp_path)
    assert caught.value.code is FailureCode.INVALID_DATA
    assert "1" in caught.value.message
    assert "21" in caught.value.message


def test_corrections_are_looked_at_too(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_text('{"id": "a", "label": "AB1"}\n')
    with pytest.raises(Refusal, match="it ends too early"):
        read_corrections(file, Data(train="x"), CODE)
    file.write_text('{"id": "a", "label": "AB12"}\n')
    assert read_corrections(file, Data(train="x"), CODE) == {"a": "AB12"}
