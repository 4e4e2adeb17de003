"""Speaks the engine's side of the protocol, without a model: answers with the input, dies or falls silent on demand."""

from __future__ import annotations

import os
import socket
import sys
import time

from guideway.schemas.failures import FailureCode
from guideway.workers.messages import (
    HEADER_BYTES,
    TO_ENGINE,
    Admit,
    Broken,
    Finished,
    Generated,
    Ready,
    Refused,
    Start,
    Stop,
    body_length,
    frame,
)


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    stream = connection.makefile("rwb")
    waiting: list[str] = []
    while header := stream.read(HEADER_BYTES):
        message = TO_ENGINE.decode(stream.read(body_length(header)))
        match message:
            case Start(model=model):
                if model.source == "crash":
                    os._exit(9)
                broken = Broken(code=FailureCode.UNKNOWN_MODEL_SIZE, message="no such model")
                stream.write(frame(broken if model.source == "broken" else Ready(fingerprint="f", load_s=0.1)))
            case Admit(id=id_, request=request):
                match request.parts[-1].text:
                    case "die":
                        os._exit(9)
                    case "hang":
                        time.sleep(3600)
                    case "wait":
                        waiting.append(id_)
                    case "refuse":
                        stream.write(frame(Refused(id=id_, code=FailureCode.TEXT_TOO_LONG, message="too long")))
                    case text:
                        generated = Generated(text=text, finish_reason="stop", complete=True)
                        for one in [*waiting, id_]:
                            stream.write(frame(Finished(id=one, samples=[generated], prompt_tokens=1, output_tokens=1)))
                        waiting.clear()
            case Stop():
                return
        stream.flush()


main()
