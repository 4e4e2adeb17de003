"""Settings from the environment, which `config.py` fills in from a file.

Some are read elsewhere, by files that must not import this one: KAFKA_HOME in `infra/local_broker.py`,
GUIDEWAY_NATIVE in `workers/engine/kernels/native.py`, GUIDEWAY_LOG_FORMAT and GUIDEWAY_LOG_LEVEL in `logs.py`,
GUIDEWAY_CONFIG in `config.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from guideway.catalogue.artefacts.cache import DEFAULT_BYTES, ArtefactCache
from guideway.infra import local_broker
from guideway.infra.cluster import brokers_in
from guideway.infra.probe import require_broker
from guideway.schemas.failures import FailureCode, Refusal

_HERE: Final = Path(".guideway")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are. Everything that this machine keeps is under `home`."""

    home: Path
    """GUIDEWAY_HOME: everything that this machine keeps; see `home`."""
    store: str
    """GUIDEWAY_STORE: artefact store, any fsspec address; default: a folder under `home`."""
    artefact_cache_bytes: int = DEFAULT_BYTES
    """GUIDEWAY_ARTEFACT_CACHE_BYTES: fetched artefacts kept on this machine's disk, least recently used out first."""
    bootstrap: str | None = None
    """KAFKA_BOOTSTRAP_SERVERS; without it, a broker of this machine's own."""
    embedding: str | None = None
    """GUIDEWAY_EMBEDDING: the model that retrieval sets are made and searched with; default: all-MiniLM-L6-v2."""
    qdrant_url: str | None = None
    """GUIDEWAY_QDRANT_URL: a Qdrant server; without it, each worker has its indexes in memory."""
    qdrant_api_key: str | None = None
    """GUIDEWAY_QDRANT_API_KEY"""

    @property
    def broker_folder(self) -> Path:
        return self.home / "broker"

    @property
    def model_cache(self) -> Path:
        return self.home / "models"

    @property
    def artefact_cache(self) -> ArtefactCache:
        return ArtefactCache(self.home / "artefacts", self.artefact_cache_bytes)

    @property
    def unfinished_sets(self) -> Path:
        return self.home / "sets"

    @staticmethod
    def from_environ(environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises Refusal(invalid_setting) for a GUIDEWAY_HOME that can be no folder."""
        place = home(environ)
        _require_folder(place)
        return Settings(
            home=place,
            store=environ.get("GUIDEWAY_STORE", "").strip() or str(place / "store"),
            artefact_cache_bytes=_bytes(environ, "GUIDEWAY_ARTEFACT_CACHE_BYTES", DEFAULT_BYTES),
            bootstrap=environ.get("KAFKA_BOOTSTRAP_SERVERS", "").strip() or None,
            embedding=environ.get("GUIDEWAY_EMBEDDING") or None,
            qdrant_url=environ.get("GUIDEWAY_QDRANT_URL") or None,
            qdrant_api_key=environ.get("GUIDEWAY_QDRANT_API_KEY") or None,
        )

    def brokers(self) -> str:
        """The cluster to use: the one named in the environment, else the one that `guideway broker up` started.

        Raises Refusal: broker_unreachable if there is neither, invalid_setting for what can be no cluster.
        """
        if self.bootstrap is not None:
            return brokers_in(self.bootstrap)
        running = local_broker.status(self.broker_folder)
        if running is None:
            raise Refusal(
                FailureCode.BROKER_UNREACHABLE,
                "no broker: run `guideway broker up` for one on this machine, or set KAFKA_BOOTSTRAP_SERVERS",
            )
        return running.bootstrap

    def answering_brokers(self) -> str:
        """`brokers`, once one of them has answered: for a command whose user would otherwise wait for a time-out.

        Raises Refusal as `brokers` does, and broker_unreachable with what stands at the address instead.
        """
        bootstrap = self.brokers()
        require_broker(bootstrap)
        return bootstrap


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this machine keeps things; need not be there.

    GUIDEWAY_HOME, else `.guideway` in the present folder where there is one, else a folder of the user's:
    `$XDG_DATA_HOME/guideway`, by default `~/.local/share/guideway`.
    """
    if named := environ.get("GUIDEWAY_HOME", "").strip():
        return Path(named).absolute()
    if _HERE.is_dir():
        return _HERE.absolute()
    users = environ.get("XDG_DATA_HOME", "").strip()
    # The specification has relative ones ignored.
    return (Path(users) if Path(users).is_absolute() else Path.home() / ".local" / "share") / "guideway"


def _require_folder(place: Path) -> None:
    try:
        there = next(one for one in (place, *place.parents) if one.exists())
        why = "" if there.is_dir() else f"{there} is a file"
    except OSError as error:
        why = error.strerror or type(error).__name__
    if why:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"GUIDEWAY_HOME, {place}, can be no folder ({why}): name another place"
        )


def _bytes(environ: Mapping[str, str], name: str, default: int) -> int:
    """Raises Refusal(invalid_setting)."""
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{name} is {text[:40]!r}: give a number of bytes, such as {default}"
        )
    return int(text)
