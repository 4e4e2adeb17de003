"""Rows of chat files in the forms of OpenAI, ShareGPT and Alpaca → instruction, text and answer. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_ROLES: Final = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names of roles → OpenAI's."""
_INSTRUCTING: Final = frozenset({"system", "developer"})


class Conversation(NamedTuple):
    """One row's messages."""

    instruction: str
    """The message of the system or the developer."""
    text: str
    """The user's last message; if there were turns before, all of them, each with its speaker."""
    answer: Any
    """The assistant's last message."""
    is_learnt: bool
    """False if the answer's `weight` is 0."""


def shared_messages(turns: Any) -> Any:
    """ShareGPT's `conversations` as messages. Raises ValueError, which says what to change."""
    try:
        return [{"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in turns]
    except (TypeError, KeyError):
        raise ValueError("its conversations must be a list of objects with from and value") from None


def read_alpaca(instruction: Any, given: Any, output: Any) -> Conversation:
    """A row of `instruction`, `input` and `output`. Without an input the instruction is the text.

    Raises ValueError, which says what to change.
    """
    if not isinstance(instruction, str) or not isinstance(given, str | None):
        raise ValueError("its instruction or its input is no text: correct it, or remove the row")
    if given and given.strip():
        return Conversation(instruction, given, output, is_learnt=True)
    return Conversation("", instruction, output, is_learnt=True)


def told_with_text(read: Conversation) -> Conversation:
    """The conversation with the instruction at the beginning of the text."""
    text = f"{read.instruction}\n\n{read.text}" if read.instruction else read.text
    return read._replace(instruction="", text=text)


def read_conversation(messages: Any) -> Conversation:
    """The conversation of OpenAI's `messages`. Raises ValueError, which says what to change."""
    try:
        turns = [(str(turn["role"]), _content(turn["content"])) for turn in messages]
        weight = messages[-1].get("weight", 1) if turns else 1
    except (TypeError, KeyError, AttributeError):
        raise ValueError("its messages must be a list of objects with role and content") from None
    instructions = [content for role, content in turns if role in _INSTRUCTING]
    spoken = [turn for turn in turns if turn[0] not in _INSTRUCTING]
    if len(instructions) > 1 or (instructions and turns[0][0] not in _INSTRUCTING):
        raise ValueError("its messages may have one message of the system or the developer, as the first")
    roles = [role for role, _ in spoken]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            "its messages must be turns of the user and the assistant, one after the other, the last one of the "
            "assistant, perhaps after a system message; calls of tools are not learnt"
        )
    *before, (_, text), (_, answer) = spoken
    if before:
        text = "\n".join(f"{role.capitalize()}: {content}" for role, content in [*before, ("user", text)])
    return Conversation(instructions[0] if instructions else "", text, answer, weight != 0)


def _content(content: Any) -> str:
    """The text of a message; its parts are joined by line ends."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part.get("type") == "text" and isinstance(part["text"], str)]
    if not texts or len(texts) != len(content):
        raise ValueError("its messages hold a part that is no text: leave out pictures, sounds and files")
    return "\n".join(texts)
