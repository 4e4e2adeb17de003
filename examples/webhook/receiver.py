"""A service that takes results: `receiver.py SECRET [PORT]`. It verifies each post and prints each result once.

It needs `standardwebhooks` only (pip install standardwebhooks); there are such libraries for most languages.
"""

from __future__ import annotations

import contextlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

seen: set[str] = set()
"""Ids of posts that were worked on. A real service keeps them for some days, where a restart does not lose them."""


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 for what it has taken, 400 for what nobody of ours has signed."""

    verifier: Webhook

    def do_POST(self) -> None:
        """One post; it may come again, with the same id."""
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            self.verifier.verify(body, {name.lower(): value for name, value in self.headers.items()})
        except WebhookVerificationError:
            self.send_response(400)
            self.end_headers()
            return
        if (one := self.headers["webhook-id"]) not in seen:
            seen.add(one)
            print(json.dumps(json.loads(body)["data"]), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: results are printed, and nothing else."""


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: receiver.py SECRET [PORT]")
    Receiver.verifier = Webhook(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8099), Receiver)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
