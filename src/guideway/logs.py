"""Logs: one line an event on standard error; JSON where nobody watches. Never a prompt, so never a local variable."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: int = logging.INFO, *, as_json: bool | None = None) -> None:
    """Set up structlog for this process; `as_json=None` decides by whether standard error is a terminal."""
    plain = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
    )
    machine = not sys.stderr.isatty() if as_json is None else as_json
    renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()] if machine else [plain]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if not machine else "iso", utc=machine),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def quiet_clients() -> None:
    """Keep aiokafka from talking: what it cannot do is said by us, and at DEBUG it prints keys, values and SASL bytes.

    A running service lets its errors through again (`delivery/pipeline.py`).
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
