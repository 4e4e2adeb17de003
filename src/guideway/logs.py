"""Logs: one line an event on standard error, those of libraries included; never a prompt, so never a local variable.

JSON where nobody watches, text in a terminal, or as `GUIDEWAY_LOG_FORMAT` says; from `GUIDEWAY_LOG_LEVEL` on. Where the
same is said again and again, as when a broker is away, a few lines of it stand for all, with how many were left out.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from guideway.printable import on_one_line, printable
from guideway.schemas.failures import FailureCode, Refusal

FORMATS: Final = ("json", "text")
LEVELS: Final = ("debug", "info", "warning", "error")
_FORM: Final = "_form"


class Sparing:
    """Which lines are written: `burst` of each kind in `every_s` seconds. Pure."""

    def __init__(self, *, burst: int = 5, every_s: float = 30.0, kinds: int = 1000) -> None:
        """`kinds` are told apart at a time; beyond that the one that came longest ago is forgotten."""
        self.every_s = every_s
        self._burst = burst
        self._kinds = kinds
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Kind → when its present span began, and how many came in it."""

    def admits(self, kind: str, now: float) -> bool:
        """Whether this line is written."""
        began, count = self._seen.pop(kind, (now, 0))
        if now - began >= self.every_s:
            began, count = now, 0
        self._seen[kind] = began, count + 1
        if len(self._seen) > self._kinds:
            self._seen.popitem(last=False)
        return count < self._burst

    def ends_at(self, kind: str) -> float:
        """When the present span of this kind ends."""
        return self._seen[kind][0] + self.every_s

    def left_out(self, kind: str) -> int:
        """How many lines of the present span were not written."""
        return max(0, self._seen.get(kind, (0.0, 0))[1] - self._burst)


class _Limiter:
    """A processor that drops what comes too often, and says at the end of each span how much that was."""

    def __init__(self, sparing: Sparing, clock: Callable[[], float] = time.monotonic) -> None:
        self._sparing = sparing
        self._clock = clock
        self._lock = threading.Lock()
        self._telling: set[str] = set()

    def __call__(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        form = str(event.pop(_FORM, event.get("event")))
        kind = f"{event.get('logger', '')} {method} {_without_numbers(form)}"
        with self._lock:
            if self._sparing.admits(kind, self._clock()):
                return event
            if kind not in self._telling:
                self._telling.add(kind)
                timer = threading.Timer(
                    max(0.0, self._sparing.ends_at(kind) - self._clock()), self.tell, (kind, _without_numbers(form))
                )
                timer.daemon = True
                timer.start()
        raise structlog.DropEvent

    def tell(self, kind: str, form: str) -> None:
        """Say how many lines of this kind were left out."""
        with self._lock:
            self._telling.discard(kind)
            number = self._sparing.left_out(kind)
        if number:
            structlog.get_logger().warning("log lines were left out", number=number, of=form, **{_FORM: kind})


def _as_text(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What others wrote, a topic's or a file's name, commands no terminal."""
    shown = {key: on_one_line(value if isinstance(value, str) else repr(value)) for key, value in event.items()}
    return shown | {"exception": printable(event["exception"])} if "exception" in event else shown


def _without_numbers(text: str) -> str:
    """The first line, without what differs from line to line: addresses, offsets, ids."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", text.split("\n", 1)[0])[:120]


class _FromLibraries(logging.Handler):
    """Gives the lines of the standard library's loggers the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno,
                record.getMessage(),
                logger=record.name,
                exc_info=record.exc_info or None,
                **{_FORM: str(record.msg)},
            )
        except Exception:
            self.handleError(record)


def configure(
    level: int = logging.INFO, *, as_json: bool | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Set up the logs of this process, whatever the environment does not say. Harmless when repeated.

    as_json: None decides by whether standard error is a terminal.

    Raises: Refusal `invalid_setting`.
    """
    if (named := _setting(environ, "GUIDEWAY_LOG_LEVEL", LEVELS)) is not None:
        level = logging.getLevelNamesMapping()[named.upper()]
    if (form := _setting(environ, "GUIDEWAY_LOG_FORMAT", FORMATS)) is not None:
        as_json = form == "json"
    terminal = sys.stderr.isatty()
    machine = not terminal if as_json is None else as_json
    if machine:
        # Bars of libraries would stand among the lines; processes that this one starts inherit it.
        os.environ.setdefault("TQDM_DISABLE", "1")
    plain = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
    )
    render = [structlog.processors.JSONRenderer()] if machine else [_as_text, plain]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Limiter(Sparing()),
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if not machine else "iso", utc=machine),
            structlog.processors.format_exc_info,
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries())
    # At lower levels libraries show texts, keys and passwords.
    root.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
    adopt_libraries()


def adopt_libraries() -> None:
    """Have libraries that write on their own, as some do from their import on, write as we do."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            for handler in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
                logger.removeHandler(handler)
                logger.propagate = True


def quiet_clients() -> None:
    """Keep aiokafka from talking: what it cannot do is said by us, and at DEBUG it prints keys, values and SASL bytes.

    A running service lets its errors through again (`delivery/pipeline.py`).
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def _setting(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    given = environ.get(name, "").strip().lower()
    if given and given not in allowed:
        raise Refusal(FailureCode.INVALID_SETTING, f"{name} is {given!r}: it is one of {', '.join(allowed)}")
    return given or None
