"""The secrets of webhooks, where `guideway targets` runs: a folder with a file `NAMESPACE.NAME` for each.

A file has a secret in each line, the newest last. All of them sign, so that receivers can change over in their own
time. Files of other tools may be mounted there, as a Kubernetes `Secret`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from guideway.producers.targets.webhooks.signing import new_secret, secret_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME

MOST: Final = 3
"""Secrets of one name at a time."""
_MAX_BYTES: Final = 4096


class SecretFiles:
    """Owner of the folder as far as commands change it. Secrets are read at each use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, namespace: str, name: str) -> list[bytes]:
        """The secrets of this name. Raises Refusal(invalid_setting), which quotes none."""
        lines = self._lines(namespace, name)
        if not lines:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"there is no secret {namespace}/{name} where deliveries are made: `guideway targets secret create "
                f"{namespace} {name}` makes one",
            )
        try:
            return [secret_of(one) for one in lines]
        except ValueError as error:
            raise Refusal(FailureCode.INVALID_SETTING, f"the file of secret {namespace}/{name}: {error}") from None

    def create(self, namespace: str, name: str) -> str:
        """Make a secret, beside those that are there; returns it, to be shown once. Raises Refusal(invalid_setting)."""
        lines = self._lines(namespace, name)
        if len(lines) >= MOST:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"secret {namespace}/{name} has {MOST} versions, which all sign: retire the old ones first",
            )
        made = new_secret()
        self._write(namespace, name, [*lines, made])
        return made

    def retire(self, namespace: str, name: str) -> int:
        """Forget all but the newest; returns how many. Raises Refusal(invalid_setting)."""
        lines = self._lines(namespace, name)
        if lines:
            self._write(namespace, name, lines[-1:])
        return max(0, len(lines) - 1)

    def listed(self) -> list[tuple[str, str, int]]:
        """(namespace, name, how many versions) of each."""
        found = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        parts = [one.name.split(".") for one in found]
        return [
            (part[0], part[1], len(self._lines(*part)))
            for part in parts
            if len(part) == 2 and all(map(NAME.fullmatch, part))
        ]

    def _lines(self, namespace: str, name: str) -> list[str]:
        file = self._file(namespace, name)
        try:
            text = file.read_bytes()[:_MAX_BYTES].decode("ascii", "replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        return text.split()

    def _write(self, namespace: str, name: str, lines: list[str]) -> None:
        file = self._file(namespace, name)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write("".join(f"{one}\n" for one in lines))
            beside.replace(file)
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} cannot be written: {error.strerror or type(error).__name__}"
            ) from None

    def _file(self, namespace: str, name: str) -> Path:
        if not (NAME.fullmatch(namespace) and NAME.fullmatch(name)):
            raise Refusal(FailureCode.INVALID_SETTING, "a secret is named by a namespace and a name, of a-z, 0-9 and -")
        # Neither has a dot, so no two secrets have one file.
        return self._folder / f"{namespace}.{name}"
