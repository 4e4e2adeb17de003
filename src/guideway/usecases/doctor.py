"""What is missing on this machine: its parts, its settings, the brokers, the catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping

from guideway import config
from guideway.infra.doctor import Check, checks
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of


async def examine(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """All checks; each says what was found, and how to mend what is wrong. environ: where settings come from."""
    found = [_of_settings(settings, environ), *await checks(folder=settings.broker_folder)]
    if any(one.name == "catalogue topic" and one.ok for one in found):
        found.append(await _of_catalogue(settings))
    return found


def _of_settings(settings: Settings, environ: Mapping[str, str]) -> Check:
    """Where settings come from and things are kept, for whoever wonders why another folder behaves otherwise."""
    wrong = config.misspelt(environ)
    files = ", ".join(map(str, config.files(environ)))
    found = f"{f'from {files} and ' if files else 'from '}the environment; things are kept in {settings.home}"
    mend = f"not heeded: {', '.join(wrong)}: correct the variable, or unset it" if wrong else ""
    return Check("settings", not wrong, found, mend)


async def _of_catalogue(settings: Settings) -> Check:
    count = (await catalogue_of(settings)).unreadable
    mend = "`guideway get` shows them: use the newer guideway that wrote them, or `guideway delete KIND NAME@VERSION`"
    found = f"{count} entries that cannot be read" if count else "all of it can be read"
    return Check("catalogue", not count, found, mend if count else "")
