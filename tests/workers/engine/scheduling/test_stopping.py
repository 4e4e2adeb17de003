"""When a row ends, and with which text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.workers.engine.conftest import MakeAdmit, tiny_tokenizer
from tests.workers.tokenizers import FAMILIES, tokenizer_of
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, WordLabels
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.stopping import Stopping
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.engine.text.sampling import Sampler
from guideway.workers.messages.from_engine import Generated


def grammars_of(tokenizer: PreTrainedTokenizerFast) -> Grammars:
    return Grammars(tokenizer, vocabulary=max(300, len(tokenizer)), eos_ids={tokenizer.eos_token_id})


def stopping_of(tokenizer: PreTrainedTokenizerFast) -> Stopping:
    grammars = grammars_of(tokenizer)
    return Stopping(tokenizer, {tokenizer.eos_token_id}, grammars.bytes_of, lead=grammars.lead)


@pytest.fixture
def stopping(tokenizer: PreTrainedTokenizerFast) -> Stopping:
    return stopping_of(tokenizer)


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's kind: a space before every text, and bytes for all characters but a few."""
    vocabulary = {token: id_ for id_, token in enumerate(["<unk>", "</s>", "▁", *"adenostw"])}
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    bpe = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")


both_kinds = pytest.mark.parametrize("kind", [tiny_tokenizer, byte_fallback_tokenizer])


def row(make_admit: MakeAdmit, **settings: Any) -> Row:
    admit = make_admit(**{"max_tokens": 1000, **settings})
    sampler = Sampler.of(admit.request.generation, request_id="r", sample=0)
    return Row(admit=admit, sample=0, prompt_ids=[1], virtual_tokens=0, sampler=sampler)


def read(stopping: Stopping, row: Row, token_ids: list[int]) -> Generated | None:
    """What comes of the tokens; every one of them is needed. Those that come in any case are there already."""
    for at, token_id in enumerate(token_ids):
        if at < len(row.token_ids):
            assert row.token_ids[at] == token_id
        else:
            assert row.generated is None
            stopping.accept(row, token_id)
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
    stopping: Stopping, make_admit: MakeAdmit, text: str, stop: list[str], left: str
) -> None:
    generated = read(stopping, row(make_admit, stop=stop), tiny_tokenizer().encode(text))
    assert generated == Generated(text=left, finish_reason="stop")


def test_text_beside_the_stop_string_goes_on(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert read(stopping, row(make_admit, stop=["stop!"]), tokenizer.encode("do not stop, never stop")) is None


def test_the_end_token_is_not_text(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    generated = read(stopping, row(make_admit), [*tokenizer.encode(" th\n"), tokenizer.eos_token_id])
    assert generated == Generated(text=" th\n", finish_reason="stop")


def test_max_tokens_ends_the_text(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    generated = read(stopping, row(make_admit, max_tokens=3), tokenizer.encode("abc"))
    assert generated == Generated(text="abc", finish_reason="length")


# Free text ends at a whole character ---------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("left_out", [1, 2])
def test_a_character_that_max_tokens_cuts_is_left_out_and_nothing_else(
    kind: Any, make_admit: MakeAdmit, left_out: int
) -> None:
    """Also where a tokenizer's own decoding gives up the whole run of bytes."""
    tokenizer = kind()
    ids = tokenizer.encode("so 日本語", add_special_tokens=False)[:-left_out]
    generated = read(stopping_of(tokenizer), row(make_admit, max_tokens=len(ids)), ids)
    assert generated == Generated(text="so 日本", finish_reason="length")


@both_kinds
def test_a_character_that_the_model_does_not_finish_is_left_out(kind: Any, make_admit: MakeAdmit) -> None:
    tokenizer = kind()
    ids = [*tokenizer.encode("日本", add_special_tokens=False)[:-1], tokenizer.eos_token_id]
    assert read(stopping_of(tokenizer), row(make_admit), ids) == Generated(text="日", finish_reason="stop")


def test_a_replacement_character_that_was_written_stays(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("a\ufffd")
    assert read(stopping, row(make_admit, max_tokens=len(ids)), ids) == Generated(
        text="a\ufffd", finish_reason="length"
    )


@both_kinds
def test_text_is_that_of_the_tokenizers_own_decoding(kind: Any, make_admit: MakeAdmit) -> None:
    tokenizer = kind()
    for text in ["note", " note", "  note ", "日 a\n", "", "\ufffd"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        generated = read(stopping_of(tokenizer), row(make_admit), [*ids, tokenizer.eos_token_id])
        assert generated == Generated(text=tokenizer.decode(ids), finish_reason="stop")
        assert generated.text == text


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_for_all_families_of_tokenizers(family: str, make_admit: MakeAdmit) -> None:
    tokenizer: Any = tokenizer_of(family)
    for text in ["note", " note", "  two  spaces ", "日本語 a\n", "é e\u0301", "\ttab", " ", "12 34", "don't !"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        generated = read(stopping_of(tokenizer), row(make_admit), [*ids, tokenizer.eos_token_id])
        assert generated == Generated(text=tokenizer.decode(ids, skip_special_tokens=True), finish_reason="stop")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_space_before_an_answer_is_no_part_of_it(family: str, make_admit: MakeAdmit) -> None:
    tokenizer: Any = tokenizer_of(family, "llama2")
    grammars = grammars_of(tokenizer)
    assert grammars.lead == " "
    guided = row(make_admit, output=Regex("[a-z]+( ;)?"), stop=[" "])
    guided.grammar = grammars.start(guided.request.output, [])
    ids = [*PromptLayout(tokenizer).answer_ids("note"), *tokenizer.encode("a ;", add_special_tokens=False)[-2:]]
    for id_ in ids:
        if guided.generated is None:
            stopping_of(tokenizer).accept(guided, id_)
    assert guided.generated == Generated(text="note", finish_reason="stop")


@both_kinds
@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("日" * 30 + "語", "語", "日" * 30),
        ("日本語", "本", "日"),
        (" note", " note", ""),
        ("so note", " note", "so"),
        ("日語ode", "語od", "日"),
    ],
)
def test_a_stop_string_of_several_bytes_is_found_wherever_its_tokens_begin(
    kind: Any, make_admit: MakeAdmit, text: str, stop: str, left: str
) -> None:
    tokenizer = kind()
    stopped = row(make_admit, stop=[stop])
    for id_ in tokenizer.encode(text, add_special_tokens=False):
        if stopped.generated is None:
            stopping_of(tokenizer).accept(stopped, id_)
    assert stopped.generated == Generated(text=left, finish_reason="stop")


def test_a_text_that_begins_with_a_token_for_a_space_is_not_stopped_by_it(make_admit: MakeAdmit) -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.encode("note", add_special_tokens=False)
    assert read(stopping_of(tokenizer), row(make_admit, stop=[" "]), ids) is None


def test_half_a_character_is_no_stop_string(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert read(stopping, row(make_admit, stop=["\ufffd"]), tokenizer.encode("日本")) is None


# A form is whole, or says what cut it ---------------------------------------------------------------------------------

INTEGER = Json({"type": "integer"})
TOKENS, STOP = "tokens were not enough", "the stop string"


@pytest.mark.parametrize(
    ("rule", "text", "left", "cause"),
    [
        # Nothing more can come: the last token allowed may be the last one wanted.
        (Regex("[0-9]{3}"), "123", "123", ""),
        (Regex("[0-9]{5}"), "12345", "12345", ""),
        (Number(decimals=3), "1.234", "1.234", ""),
        (Choice(["a", "ab"]), "ab", "ab", ""),
        (Boolean("1/0"), "1", "1", ""),
        # The model ended it.
        (Regex("[0-9]{3,9}"), "123<|end|>", "123", ""),
        (INTEGER, "1999<|end|>", "1999", ""),
        (Choice(["New", "New York City"]), "New<|end|>", "New", ""),
        # It could have gone on.
        (Regex("[0-9]{9}"), "12345", "12345", TOKENS),
        (Regex("[0-9]{1,9}"), "12345", "12345", TOKENS),
        (Regex("[0-9]+"), "12345", "12345", TOKENS),
        (Regex("a*"), "aaaaa", "aaaaa", TOKENS),
        (Regex("(?s:.*)"), "ab日", "ab日", TOKENS),
        (INTEGER, "19999", "19999", TOKENS),
        (Json({"enum": [19999, 199999]}), "19999", "19999", TOKENS),
        (Number(), "12345", "12345", TOKENS),
        (Number(), "1.234", "1.234", TOKENS),
        (Choice(["New Y", "New York City"]), "New Y", "New Y", TOKENS),
        (WordLabels(["NNN", "NNNN"]), "a/NNN", "a/NNN", TOKENS),
        # A stop string ended it.
        (Regex("[0-9]+;[a-z]+"), "12;", "12", STOP),
        (Regex("[0-9]+;?"), "12;", "12", ""),
        (Json({"type": "string"}), '"a;', '"a', STOP),
        (Choice(["a", "a;b"]), "a;", "a", STOP),
        (Json({"enum": [12, "12;"]}), '"12;', '"12', STOP),
    ],
    ids=str,
)
def test_a_form_is_whole_or_says_what_cut_it(
    stopping: Stopping, make_admit: MakeAdmit, rule: OutputRule, text: str, left: str, cause: str
) -> None:
    tokenizer = tiny_tokenizer()
    guided = row(make_admit, output=rule, max_tokens=5, stop=[";"])
    guided.grammar = grammars_of(tokenizer).start(rule, ["a"])
    generated = read(stopping, guided, tokenizer.encode(text))
    assert generated is not None
    assert (generated.text, generated.finish_reason) == (left, "length" if cause == TOKENS else "stop")
    assert (generated.failure is None) == (not cause)
    if generated.failure is not None:
        assert generated.failure.code is FailureCode.OUTPUT_INCOMPLETE
        assert cause in generated.failure.message
        assert ("generation.max_tokens" in generated.failure.message) == (cause == TOKENS)
        assert ("generation.stop" in generated.failure.message) == (cause == STOP)


def test_a_number_that_a_stop_string_cuts_is_no_number(
    stopping: Stopping, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    guided = row(make_admit, output=Number(), stop=["5"])
    guided.grammar = grammars_of(tokenizer).start(Number(), [])
    generated = read(stopping, guided, tokenizer.encode("125"))
    assert generated is not None
    assert generated.failure is not None
    assert 'the stop string "5"' in generated.failure.message
