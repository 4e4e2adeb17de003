"""Certificates for tests: an authority of their own, and what it signs. Made by the machine's `openssl`, each in 20 ms.

authority = Authority.made(folder / "ca")
broker = authority.issue("broker")                      # for 127.0.0.1 and localhost
team = authority.issue("team-a", client=True)           # CN=team-a: a principal, where a client shows it
gone = authority.issue("broker", days=0)                # expired when it is made
other = authority.issue("broker", names=("elsewhere",)) # for another host
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = ("localhost", "127.0.0.1")
NO_OPENSSL: Final = "openssl is not installed: it makes the certificates of a secured cluster"


def have_openssl() -> bool:
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Certificate:
    """A signed certificate with its key (PKCS #8, without a password)."""

    certificate: Path
    key: Path
    both: Path
    """Key and certificate in one PEM file, as Java's `ssl.keystore.type=PEM` takes them."""


@dataclass
class Authority:
    """A certificate authority. `certificate` is what a client is told to trust."""

    folder: Path
    certificate: Path
    key: Path
    _serials: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def made(cls, folder: Path, name: str = "guideway tests") -> Authority:
        """A new authority whose files are in `folder`."""
        folder.mkdir(parents=True)
        certificate, key = folder / "ca.pem", folder / "ca.key"
        _key(key)
        _openssl(
            *("req", "-x509", "-new", "-key", key, "-out", certificate, "-days", "3650", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        return cls(folder, certificate, key)

    def issue(self, name: str, *, client: bool = False, days: int = 30, names: Sequence[str] = HERE) -> Certificate:
        """A certificate with CN `name`. It is a server's for the hosts in `names`, or a client's.

        days: how long it holds from now; with 0 it has expired.
        """
        number = next(self._serials)
        place = self.folder / f"{number}-{name}"
        request, extensions = place.with_suffix(".csr"), place.with_suffix(".ext")
        issued = Certificate(place.with_suffix(".pem"), place.with_suffix(".key"), place.with_suffix(".both.pem"))
        _key(issued.key)
        _openssl("req", "-new", "-key", issued.key, "-out", request, "-subj", f"/CN={name}")
        hosts = ",".join(f"{'IP' if host[-1].isdigit() else 'DNS'}:{host}" for host in names)
        use = "extendedKeyUsage=clientAuth" if client else f"extendedKeyUsage=serverAuth\nsubjectAltName={hosts}"
        extensions.write_text(use + "\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-out", issued.certificate),
            *("-set_serial", number, "-days", days, "-extfile", extensions),
        )
        issued.both.write_text(issued.key.read_text() + issued.certificate.read_text())
        issued.both.chmod(0o600)
        return issued


def _key(file: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file)
    file.chmod(0o600)


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
