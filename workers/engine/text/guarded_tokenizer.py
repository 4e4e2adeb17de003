"""The model's tokenizer with secret names for its tokens of structure: nobody can guess them, so no text has them."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tokenizers import Encoding, Tokenizer

from guideway.workers.engine.text.aside import Calls, here

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NO_WORD: Final = re.compile(r"[^\w\s\u2581]")
"""Line ends, spaces and words that a vocabulary has among its added tokens are no structure."""
_LONG_CHARS: Final = 8192
"""Fewer characters are tokens within some milliseconds."""
_AT_ONCE: Final = 256
"""Texts: to take them over, to hand over their tokens and to forget them holds the interpreter for a millisecond."""


class Tokens(NamedTuple):
    """A text in tokens."""

    ids: list[int]
    ends: list[tuple[int, int]]
    """For each token the characters that it came from, (first, one past the last). Tokens for bytes of one character
    have the same range, and a token that stands for no character has an empty one."""


class GuardedTokenizer:
    """Texts → tokens, as the model's own tokenizer makes them of a whole text at once.

    It is a copy in which the *reserved* tokens have other names, drawn at random for this copy. Reserved are those that
    are special or stand in the chat template. `own` writes the new names into the layout's own text. So no other text
    has a token of structure: `<|im_end|>` in it is ten ordinary characters. Everything else is as in the original: how
    texts are normalised and cut, and what a token does to the white space beside it.

    Its methods change nothing, so threads may share it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, aside: Calls = here) -> None:
        """aside: makes calls that take long."""
        self._tokenizer = tokenizer
        self._aside = aside
        template = str(tokenizer.chat_template or "")
        unknown = tokenizer.unk_token_id
        # The token for unknown characters is no structure, and texts may well have such characters; unless it is used
        # as structure as well.
        structure = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self.reserved = {
            id_: token.content
            for id_, token in tokenizer.added_tokens_decoder.items()
            if (token.special or (token.content in template and _NO_WORD.search(token.content)))
            and (id_ != unknown or id_ in structure or token.content in template)
        }
        """Token id → its real name."""
        secret = secrets.token_hex(16)
        self._names = {id_: f"{secret}{id_:08x}" for id_ in self.reserved}
        self._copy = Tokenizer.from_str(json.dumps(self._renamed(json.loads(tokenizer.backend_tokenizer.to_str()))))

    def own(self, text: str) -> str:
        """The layout's own text for `encode`: each token of structure in it has its secret name."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        written, done = [], 0
        for id_, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            # What a token takes of the white space beside it is in its range as well.
            if id_ in self.reserved and (at := text.find(self.reserved[id_], max(start, done), end)) >= 0:
                written += [text[done:at], self._names[id_]]
                done = at + len(self.reserved[id_])
        return "".join([*written, text[done:]])

    def encode(self, text: str) -> Tokens:
        """The tokens of a text, whose tokens of structure are written by `own`."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text by itself."""
        encodings = self._encodings(texts)
        return [self._checked(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def following(self, before: str, ids: Sequence[int], texts: Sequence[str]) -> list[list[int] | None]:
        """The tokens of each text after `before`, whose tokens are `ids`; None where these change with the text."""
        encodings = self._encodings([before + text for text in texts])
        found: list[list[int] | None] = []
        for text, encoding in zip(texts, encodings, strict=True):
            whole = encoding.ids
            if not self.reserved.keys().isdisjoint(whole[len(ids) :]):
                whole = self._checked(before + text, encoding).ids
            found.append(whole[len(ids) :] if whole[: len(ids)] == ids else None)
        return found

    def _encodings(self, texts: Sequence[str]) -> Iterator[Encoding]:
        # The library's `encode` would hold the interpreter, and all other threads with it; `encode_batch` does not.
        make = here if sum(map(len, texts)) < _LONG_CHARS else self._aside
        for first in range(0, len(texts), _AT_ONCE):
            some = list(texts[first : first + _AT_ONCE])
            yield from make(functools.partial(self._copy.encode_batch, some, add_special_tokens=False))

    def _checked(self, text: str, encoding: Encoding) -> Tokens:
        ids, ends = encoding.ids, encoding.offsets
        if self.reserved.keys().isdisjoint(ids):
            return Tokens(ids, ends)
        kept = [
            place
            for place, (id_, (start, end)) in enumerate(zip(ids, ends, strict=True))
            # A vocabulary may have ways that lead to a reserved token without its name; no text is to find them.
            if id_ not in self.reserved or self._names[id_] in text[start:end]
        ]
        return Tokens([ids[place] for place in kept], [ends[place] for place in kept])

    def _renamed(self, original: dict[str, Any]) -> dict[str, Any]:
        """The tokenizer's description with other names."""
        model = original["model"]
        new = {self.reserved[id_]: name for id_, name in self._names.items()}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {new.get(piece, piece): id_ for piece, id_ in model["vocab"].items()}
            known = {*model["vocab"]}
        else:
            model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
            known = {piece for piece, _ in model["vocab"]}
        if "merges" in model:
            model["merges"] = [merge for merge in model["merges"] if not {*_halves(merge), _whole(merge)} & new.keys()]
        if (unknown := model.get("unk_token")) in new:
            model["unk_token"] = new[unknown]
        # The name of the token for unknown characters is text as well.
        plain = {
            token["content"]: secrets.token_hex(16)
            for token in original["added_tokens"]
            if token["special"] and token["content"] not in new
        }
        original["added_tokens"] = [
            token | {"content": new.get(token["content"]) or plain.get(token["content"]) or token["content"]}
            for token in original["added_tokens"]
            if token["content"] not in plain or token["content"] not in known
        ]
        return original | {"post_processor": None, "truncation": None, "padding": None}


def _halves(merge: str | list[str]) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _whole(merge: str | list[str]) -> str:
    return "".join(_halves(merge))
