"""A child that answers each lookup with its query: `child_main` in a process of its own, without a model."""

from __future__ import annotations

import sys

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.from_retrieval import Found, FoundPassage
from guideway.workers.messages.to_retrieval import TO_RETRIEVAL, Lookup, StartRetrieval, ToRetrieval
from guideway.workers.processes.channel import Channel
from guideway.workers.processes.child_main import Loaded, child_main


def load(start: StartRetrieval, channel: Channel[ToRetrieval]) -> Loaded[str]:
    match start.settings.embedding:
        case "refused":
            raise Refusal(FailureCode.SET_WRONG_EMBEDDING, "no such model")
        case "fails":
            raise RuntimeError("nobody has thought of this")
        case name:
            return Loaded(name, f"fingerprint of {name}", "former")


def serve(channel: Channel[ToRetrieval], name: str) -> None:
    while not isinstance(message := channel.receive(), Stop):
        assert isinstance(message, Lookup)
        passage = FoundPassage(set=0, id=name, text=message.wanted.query, score=0.5)
        channel.send(Found(id=message.id, passages=[passage]))


if __name__ == "__main__":
    sys.exit(child_main("echo", TO_RETRIEVAL, StartRetrieval, load=load, serve=serve))
