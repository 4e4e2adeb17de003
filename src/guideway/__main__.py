"""`guideway` and `python -m guideway`: the command line."""

import os

try:
    import signal
except KeyboardInterrupt:
    # Ctrl-C within the milliseconds before a handler can be set.
    raise SystemExit(130) from None


def main() -> None:
    """Run a command, and end without a stack trace if Ctrl-C comes while it is still being imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from guideway import cli

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
