"""Small tokenizers of the three families, trained on the spot, each as models of that family have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHATML: Final = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2: Final = (
    "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + ((s if loop.first else '') + m['content']) | trim"
    " + ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>' + m['content'] + '<|done|>' }}"
    "{% elif m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI3: Final = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|done|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
COLON: Final = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES: Final[dict[str, str | None]] = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "gemma": GEMMA,
    "colon": COLON,
    "none": None,
}

SPECIAL: Final = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|done|>",
]
_CORPUS: Final = [
    "The answer is positive, and the other answer is negative. user system assistant model",
    "### Context: ### Input: ### Instruction: ### Response: [INST] [/INST] <<SYS>> <</SYS>>",
    "Is the Earth round? yes no true false positive negative The quick brown fox's café naïve über",
    "positive negative yes no\n\npositive\nnegative\n yes  no   a b c d e f g h i j k l m n o p q r s t u v w x y z",
] * 20
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_BYTES: Final = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level(pattern: str, normalizer: Any = None) -> Tokenizer:
    core = Tokenizer(models.BPE())
    if normalizer is not None:
        core.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet))
    core.add_special_tokens(SPECIAL)
    return core


def _sentencepiece(**parts: Any) -> Tokenizer:
    """BPE with byte fallback, as converted from SentencePiece: no cut at spaces, or one by Metaspace."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<unk>", *SPECIAL, *_BYTES]
    # A line's end is a byte of its own, as in Llama 2: it is part of no longer token.
    lines = [line for text in _CORPUS for line in text.splitlines()]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=640, special_tokens=special))

    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    core = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    for name, part in parts.items():
        setattr(core, name, part)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<unk>", *SPECIAL])
    return core


def _legacy() -> Tokenizer:
    return _sentencepiece(normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


def _metaspace(scheme: Any, *, rstrip: bool = False) -> Tokenizer:
    core = _sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False))
    if rstrip:
        core.add_special_tokens([AddedToken(text, rstrip=True, normalized=False, special=True) for text in SPECIAL])
    return core


def _gemma() -> Tokenizer:
    split = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    core = _sentencepiece(normalizer=normalizers.Replace(" ", "▁"), pre_tokenizer=split)
    # As in Gemma's vocabulary: added tokens that are no structure, and that texts may have.
    core.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁▁▁")])
    return core


def _unigram(scheme: Any, normalizer: Any) -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = ["<unk>", *SPECIAL]
    trainer = trainers.UnigramTrainer(
        vocab_size=240,
        special_tokens=special,
        unk_token="<unk>",
        initial_alphabet=list("\n[]<>/#:.,?'\"{}-B0123456789\\\u00e9"),
    )
    core.train_from_iterator(_CORPUS, trainer)
    core.add_special_tokens(special)
    return core


FAMILIES: Final[dict[str, Callable[[], Tokenizer]]] = {
    "byte-level gpt2": lambda: _byte_level(_GPT2),
    "byte-level llama3": lambda: _byte_level(_LLAMA3),
    "byte-level NFC": lambda: _byte_level(_LLAMA3, normalizers.NFC()),
    "sentencepiece legacy": _legacy,
    "sentencepiece always": lambda: _metaspace("always"),
    "sentencepiece first": lambda: _metaspace("first"),
    "sentencepiece never": lambda: _metaspace("never"),
    "sentencepiece rstrip": lambda: _metaspace("first", rstrip=True),
    "sentencepiece gemma": _gemma,
    "unigram always": lambda: _unigram("always", normalizers.NFKC()),
    "unigram first": lambda: _unigram("first", normalizers.NFC()),
}


@cache
def _trained(family: str) -> str:
    return FAMILIES[family]().to_str()


def tokenizer_of(family: str, template: str | None = None) -> PreTrainedTokenizerBase:
    """A fresh one of the family, with the template of that name."""
    core = Tokenizer.from_str(_trained(family))
    unknown = {"unk_token": "<unk>"} if core.token_to_id("<unk>") is not None else {}
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", **unknown)
    made.chat_template = TEMPLATES[template or "none"]
    return made
