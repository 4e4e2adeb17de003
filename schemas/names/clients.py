"""What a client of ours is called at the broker: its role, its process, and its pipeline."""

from __future__ import annotations

import os
import re
from typing import Final


def client_id(role: str, token: int | None = None) -> str:
    """`guideway-ROLE-PID`: by the process id the caretaker of an embedded broker sees that a member is dead.

    token: identifies a pipeline among the members of its group.
    """
    name = f"guideway-{role}-{os.getpid()}"
    return name if token is None else f"{name}.{token:x}"


CLIENT_ID: Final = re.compile(r"guideway-[a-z-]+-(?P<pid>\d+)(?:\.(?P<token>[0-9a-f]{8,9}))?")


def token_of_client_id(text: str) -> int | None:
    """The token in a client id of ours, or None."""
    named = CLIENT_ID.fullmatch(text)
    return int(named["token"], 16) if named and named["token"] else None
