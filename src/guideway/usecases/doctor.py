"""What is missing on this machine: its parts, its settings, the brokers, the catalogue."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from guideway import config
from guideway.delivery.connection.security import Protocol
from guideway.infra.doctor import Check, checks
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.rights.diagnosis import Guess, diagnosed


async def examine(
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    *,
    role: str | None = None,
    namespace: str | None = None,
) -> list[Check]:
    """All checks; each says what was found, and how to mend what is wrong. environ: where settings come from.

    role, namespace: whose rights are looked for, on a cluster that one logs in to; None: they are guessed.
    Raises Refusal(invalid_setting) for what is no role.
    """
    found = [_of_settings(settings, environ), *await checks(folder=settings.broker_folder)]
    if any(one.name == "broker runs" and one.ok for one in found):
        cluster = settings.cluster()
        if role is not None or cluster.security.protocol is not Protocol.PLAINTEXT:
            what, more = await diagnosed(cluster, role, namespace)
            found = [one for one in found if what.role is None or one.name not in _hidden(what)] + more
    if any(one.name == "catalogue topic" and one.ok for one in found):
        found.append(await _of_catalogue(settings))
    return found


def _hidden(what: Guess) -> Collection[str]:
    """Checks that fail because a user does not see what is there."""
    if what.role not in ("team", "caller"):
        return ()
    # Who sees no catalogue at all is told so by the check of rights.
    return ("request topics",) if what.namespace is not None else ("request topics", "catalogue topic")


def _of_settings(settings: Settings, environ: Mapping[str, str]) -> Check:
    """Where settings come from and things are kept, for whoever wonders why another folder behaves otherwise."""
    wrong = config.misspelt(environ)
    files = ", ".join(map(str, config.files(environ)))
    found = f"{f'from {files} and ' if files else 'from '}the environment; things are kept in {settings.home}"
    mend = f"not heeded: {', '.join(wrong)}: correct the variable, or unset it" if wrong else ""
    return Check("settings", not wrong, found, mend)


async def _of_catalogue(settings: Settings) -> Check:
    catalogue = await catalogue_of(settings)
    unread, foreign = catalogue.unreadable, catalogue.foreign.count
    found, mend = [], []
    if unread:
        found.append(f"{unread} entries that cannot be read, and are left as they are")
        mend.append("`guideway get` shows them: use the newer guideway that wrote them")
    if foreign:
        found.append(f"{foreign} records that do not agree with their topic, and count for nothing")
        mend.append(
            "`guideway get` shows them: whoever may write that topic wrote them; remove them with Kafka's tools"
        )
    return Check("catalogue", not found, "; ".join(found) or "all of it can be read", "; ".join(mend))
