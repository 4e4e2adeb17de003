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
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker
from guideway.infra.probe import require_broker
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.batch import KEPT_DAYS

_HERE: Final = Path(".guideway")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are. Everything that this machine keeps is under `home`."""

    home: Path
    """GUIDEWAY_HOME: everything that this machine keeps; see `home`."""
    store: str
    """GUIDEWAY_STORE: artefact store, any fsspec address; default: a folder under `home`."""
    artefact_cache_bytes: int = DEFAULT_BYTES
    """GUIDEWAY_ARTEFACT_CACHE_BYTES: fetched artefacts kept on this machine's disk, least recently used out first."""
    batch_days: int = KEPT_DAYS
    """GUIDEWAY_BATCH_DAYS: for how many days results of batch jobs stay in the store."""
    named: Cluster | Refusal | None = None
    """What KAFKA_BOOTSTRAP_SERVERS, KAFKA_CLIENT_CONFIG and the like say, or why that can be no cluster; None: they are
    not set, and a broker of this machine's own is used."""
    embedding: str | None = None
    """GUIDEWAY_EMBEDDING: the model that retrieval sets are made and searched with; default: all-MiniLM-L6-v2."""
    qdrant_url: str | None = None
    """GUIDEWAY_QDRANT_URL: a Qdrant server; without it, each worker has its indexes in memory."""
    qdrant_api_key: str | None = None
    """GUIDEWAY_QDRANT_API_KEY"""
    jwt_issuer: str | None = None
    """GUIDEWAY_JWT_ISSUER: whose tokens count at gateways; without it only keys do."""
    jwt_audience: str | None = None
    """GUIDEWAY_JWT_AUDIENCE: for whom a token must be."""
    jwt_keys_url: str | None = None
    """GUIDEWAY_JWT_KEYS_URL: of the issuer's JSON Web Key Set."""
    jwt_algorithms: str | None = None
    """GUIDEWAY_JWT_ALGORITHMS: with commas; default: RS256,ES256,EdDSA."""
    jwt_claim: str | None = None
    """GUIDEWAY_JWT_CLAIM: which claim names the namespace; default: namespace."""
    egress: str = ""
    """GUIDEWAY_EGRESS: the hosts to which webhooks may go; nothing goes out without it."""
    secrets_folder: Path | None = None
    """GUIDEWAY_SECRETS: folder of the secrets that sign what is posted; default: under `home`."""

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
    def secrets(self) -> Path:
        return self.secrets_folder or self.home / "secrets"

    @property
    def unfinished_sets(self) -> Path:
        return self.home / "sets"

    @staticmethod
    def from_environ(environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises Refusal(invalid_setting) for a GUIDEWAY_HOME that can be no folder."""
        place = home(environ)
        _require_folder(place)
        secrets = environ.get("GUIDEWAY_SECRETS", "").strip()
        return Settings(
            home=place,
            store=environ.get("GUIDEWAY_STORE", "").strip() or str(place / "store"),
            artefact_cache_bytes=_bytes(environ, "GUIDEWAY_ARTEFACT_CACHE_BYTES", DEFAULT_BYTES),
            batch_days=_days(environ, "GUIDEWAY_BATCH_DAYS"),
            named=_named_cluster(environ),
            embedding=environ.get("GUIDEWAY_EMBEDDING") or None,
            qdrant_url=environ.get("GUIDEWAY_QDRANT_URL") or None,
            qdrant_api_key=environ.get("GUIDEWAY_QDRANT_API_KEY") or None,
            jwt_issuer=environ.get("GUIDEWAY_JWT_ISSUER") or None,
            jwt_audience=environ.get("GUIDEWAY_JWT_AUDIENCE") or None,
            jwt_keys_url=environ.get("GUIDEWAY_JWT_KEYS_URL") or None,
            jwt_algorithms=environ.get("GUIDEWAY_JWT_ALGORITHMS") or None,
            jwt_claim=environ.get("GUIDEWAY_JWT_CLAIM") or None,
            egress=environ.get("GUIDEWAY_EGRESS", "").strip(),
            secrets_folder=Path(secrets).absolute() if secrets else None,
        )

    def cluster(self) -> Cluster:
        """The cluster to use: the one named in the environment, else the one that `guideway broker up` started.

        Raises Refusal: broker_unreachable if there is neither, invalid_setting for what can be no cluster.
        """
        if isinstance(self.named, Refusal):
            raise self.named
        if self.named is not None:
            return self.named
        running = local_broker.status(self.broker_folder)
        if running is None:
            raise Refusal(
                FailureCode.BROKER_UNREACHABLE,
                "no broker: run `guideway broker up` for one on this machine, or set KAFKA_BOOTSTRAP_SERVERS or "
                "KAFKA_CLIENT_CONFIG",
            )
        return running.cluster

    def answering_cluster(self) -> Cluster:
        """`cluster`, once one of them has answered: for a command whose user would otherwise wait for a time-out.

        Raises Refusal as `cluster` does, and broker_unreachable with what stands at the address instead.
        """
        cluster = self.cluster()
        require_broker(cluster)
        return cluster


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


def _named_cluster(environ: Mapping[str, str]) -> Cluster | Refusal | None:
    # A command that needs no cluster is not to fail for it.
    try:
        return Cluster.from_environ(environ)
    except Refusal as refusal:
        return refusal


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


def _days(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "").strip() or str(KEPT_DAYS)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= KEPT_DAYS):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{name} is {text[:40]!r}: give 1 to {KEPT_DAYS} days, for no longer is a job known",
        )
    return int(text)
