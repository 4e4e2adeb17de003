"""When a row ends, and with which text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.workers.engine.conftest import MakeAdmit, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from guideway.schemas.output import Regex
from guideway.workers.engine.grammars import Grammars
from guideway.workers.engine.reader import Reader
from guideway.workers.engine.row import Row
from guideway.workers.engine.sampling import Sampler
from guideway.workers.messages import Generated


@pytest.fixture
def reader(tokenizer: PreTrainedTokenizerFast) -> Reader:
    return Reader(tokenizer, {tokenizer.eos_token_id})


def row(make_admit: MakeAdmit, **settings: Any) -> Row:
    admit = make_admit(**{"max_tokens": 1000, **settings})
    sampler = Sampler.of(admit.request.generation, request_id="r", sample=0)
    return Row(admit=admit, sample=0, prompt_ids=[1], virtual_tokens=0, sampler=sampler)


def read(reader: Reader, row: Row, token_ids: list[int]) -> Generated | None:
    """What comes of the tokens; every one of them is needed."""
    for token_id in token_ids:
        assert row.generated is None
        reader.read(row, token_id)
    return row.generated


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one\n\n", ["\n\n"], "one"),
        ("what is true", ["s true"], "what i"),
        ("yes no", ["o", "no"], "yes "),
        ("first th", ["th", "st th"], "fir"),
        ("snow ❄!", ["❄!"], "snow "),
        ("yes", ["yes"], ""),
        ("a" * 300 + "END", ["END"], "a" * 300),
    ],
)
def test_the_text_ends_before_the_stop_string(
    reader: Reader, make_admit: MakeAdmit, text: str, stop: list[str], left: str
) -> None:
    generated = read(reader, row(make_admit, stop=stop), tiny_tokenizer().encode(text))
    assert generated == Generated(text=left, finish_reason="stop", complete=True)


def test_text_beside_the_stop_string_goes_on(
    reader: Reader, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert read(reader, row(make_admit, stop=["stop!"]), tokenizer.encode("do not stop, never stop")) is None


def test_the_end_token_is_not_text(reader: Reader, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast) -> None:
    generated = read(reader, row(make_admit), [*tokenizer.encode(" th\n"), tokenizer.eos_token_id])
    assert generated == Generated(text=" th\n", finish_reason="stop", complete=True)


def test_max_tokens_ends_the_text(reader: Reader, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast) -> None:
    generated = read(reader, row(make_admit, max_tokens=3), tokenizer.encode("abc"))
    assert generated == Generated(text="abc", finish_reason="length", complete=True)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("[0-9]{3}", "123", Generated(text="123", finish_reason="stop", complete=True)),
        ("[0-9]{3,9}", "123<|end|>", Generated(text="123", finish_reason="stop", complete=True)),
        ("[0-9]{9}", "12345", Generated(text="12345", finish_reason="length", complete=False)),
        ("[0-9]+", "12345", Generated(text="12345", finish_reason="length", complete=True)),
        ("[0-9]+;[a-z]+", "12;", Generated(text="12", finish_reason="stop", complete=False)),
        ("[0-9]+;?", "12;", Generated(text="12", finish_reason="stop", complete=True)),
    ],
)
def test_a_grammar_ends_the_text_as_soon_as_nothing_more_can_come(
    reader: Reader, make_admit: MakeAdmit, pattern: str, text: str, expected: Generated
) -> None:
    tokenizer = tiny_tokenizer()
    grammars = Grammars(tokenizer, vocabulary=300, eos_ids={tokenizer.eos_token_id})
    guided = row(make_admit, output=Regex(pattern), max_tokens=5, stop=[";"])
    guided.grammar = grammars.start(guided.request.output, [])
    assert read(reader, guided, tokenizer.encode(text)) == expected
