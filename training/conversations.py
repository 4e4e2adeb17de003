"""Chat files of OpenAI's form → what an event brings and what the model is to answer. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_INSTRUCTING: Final = frozenset({"system", "developer"})


class Conversation(NamedTuple):
    """One row's messages."""

    instruction: str
    """Of the system or the developer."""
    text: str
    """The user's last message; where there were turns before, all of them, each with who speaks."""
    answer: Any
    """The assistant's last message."""
    is_learnt: bool
    """False where the answer's `weight` is 0."""


def read_conversation(messages: Any) -> Conversation:
    """Raises ValueError, which says what to change."""
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
    """The text of a message, whose parts are joined by line ends."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part.get("type") == "text" and isinstance(part["text"], str)]
    if not texts or len(texts) != len(content):
        raise ValueError("its messages hold a part that is no text: leave out pictures, sounds and files")
    return "\n".join(texts)
