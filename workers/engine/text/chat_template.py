"""What the model's chat template puts around messages: read once, from its rendering of names in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM: Final = "guideway0system0c7f1e9"
USER: Final = "guideway0user0c7f1e9"
ANSWER: Final = "guideway0answer0c7f1e9"
_SPACE: Final = " \n "

BLANK: Final = "\n\n"
INSTRUCTION: Final = "### Instruction:\n"
CONTEXT: Final = "### Context:\n"
INPUT: Final = "### Input:\n"
RESPONSE: Final = "### Response:\n"


@dataclass(frozen=True)
class Slot:
    """A place for parts among the layout's own pieces."""

    name: Literal["instruction", "user"]
    headed: bool = False
    """Whether the input has a heading even without context."""
    strips: tuple[bool, bool] = (False, False)
    """Whether the template strips white space from the beginning of what stands here, and from the end."""


Pieces = list["str | Slot"]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, opening: bool) -> str:
    """The conversation as text. opening: whether what opens the assistant's message comes last."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening))


def answer_lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """The white space that the template puts between its opening of the assistant's message and what stands in it."""
    user = {"role": "user", "content": USER}
    opened = rendered(tokenizer, [user], opening=True)
    answered = rendered(tokenizer, [user, {"role": "assistant", "content": ANSWER}], opening=False)
    before = answered.partition(ANSWER)[0]
    lead = before.removeprefix(opened) if before.startswith(opened) else ""
    return lead if lead.isspace() else ""


def _strips(text: str, spaced: str, sentinel: str) -> tuple[bool, bool]:
    """Whether a template leaves no white space before a message, and after it: from its text without and with some."""
    left, _, right = text.partition(sentinel)
    spaced_left, _, spaced_right = spaced.partition(sentinel)
    return spaced_left == left, spaced_right == right


def chat_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[Pieces, Pieces]:
    """The layout without and with instructions, from the template rendered with sentinels."""
    user = {"role": "user", "content": USER}
    spaced = {"role": "user", "content": f"{_SPACE}{USER}{_SPACE}"}
    alone = rendered(tokenizer, [user], opening=True)
    before, _, after = alone.partition(USER)
    strips = _strips(alone, rendered(tokenizer, [spaced], opening=True), USER)
    try:
        whole = rendered(tokenizer, [{"role": "system", "content": _SYSTEM}, user], opening=True)
        system = {"role": "system", "content": f"{_SPACE}{_SYSTEM}{_SPACE}"}
        with_space = rendered(tokenizer, [system, user], opening=True)
    except Exception:  # templates refuse a role by raising jinja2's TemplateError, or whatever they call raises
        whole = with_space = ""
    head, found, rest = whole.partition(_SYSTEM)
    between, found_user, tail = rest.partition(USER)
    bare: Pieces = [before, Slot("user", strips=strips), after]
    if not found or not found_user:
        first = Slot("instruction", strips=(strips[0], False))
        return bare, [before, first, BLANK, Slot("user", strips=(False, strips[1])), after]
    with_user_space = rendered(tokenizer, [{"role": "system", "content": _SYSTEM}, spaced], opening=True)
    instructed: Pieces = [
        head,
        Slot("instruction", strips=_strips(whole, with_space, _SYSTEM)),
        between,
        Slot("user", strips=_strips(whole, with_user_space, USER)),
        tail,
    ]
    injects = before.startswith(head) and before.endswith(between) and len(before) >= len(head) + len(between)
    if not injects:
        return bare, instructed
    # `before` holds a system message of the template's own. Keep the beginning-of-text token and what opens the user's
    # message, which is `between` without the end of the system message: messages end alike.
    end = rendered(tokenizer, [user], opening=False).partition(USER)[2]
    if not end or not between.startswith(end):
        return [head, between, bare[1], tail], instructed
    opening = between.removeprefix(end)
    bos = str(tokenizer.bos_token or "")
    begin = bos if head.startswith(bos) and not opening.startswith(bos) else ""
    return [begin, opening, *bare[1:]], instructed


def plain_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[Pieces, Pieces]:
    """The layout of a model without chat template."""
    first = tokenizer.encode("a")[:1]
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""
    rest: Pieces = [Slot("user", headed=True), BLANK + RESPONSE]
    return [begin, *rest], [begin + INSTRUCTION, Slot("instruction"), BLANK, *rest]
