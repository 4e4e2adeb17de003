"""Speaks the retrieval process's side of the protocol: finds the query itself, dies, hangs or refuses on demand."""

from __future__ import annotations

import os
import socket
import sys
import time

from guideway.schemas.failures import FailureCode
from guideway.workers.messages.every_child import Broken, Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_retrieval import Embedded, Found, FoundPassage
from guideway.workers.messages.to_retrieval import TO_RETRIEVAL, Embed, Lookup, StartRetrieval


def main() -> None:
    stream = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])).makefile("rwb")
    with open(sys.argv[1], "a", encoding="utf-8") as starts:
        starts.write("started\n")
    while header := stream.read(HEADER_BYTES):
        match TO_RETRIEVAL.decode(stream.read(body_length(header))):
            case StartRetrieval(settings=settings):
                broken = Broken(code=FailureCode.SET_WRONG_EMBEDDING, message="no such model")
                ready = Ready(fingerprint="f", load_s=0.0)
                stream.write(frame(broken if settings.embedding == "broken" else ready))
            case Lookup(id=id_, wanted=wanted):
                match wanted.query:
                    case "die":
                        os._exit(9)
                    case "hang":
                        time.sleep(3600)
                    case "refuse":
                        stream.write(frame(Refused(id=id_, code=FailureCode.GUIDANCE_DAMAGED, message="damaged")))
                    case "wait":
                        pass
                    case query:
                        passage = FoundPassage(set=0, id="p", text=query, score=0.5)
                        stream.write(frame(Found(id=id_, passages=[passage])))
            case Embed(id=id_, texts=texts):
                if "die" in texts:
                    os._exit(9)
                vectors = b"".join(len(text).to_bytes(4, "little") for text in texts)
                stream.write(frame(Embedded(id=id_, dimension=1, vectors=vectors)))
            case Stop():
                return
        stream.flush()


if __name__ == "__main__":
    main()
