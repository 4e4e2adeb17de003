"""How the connection is encrypted, and by what each side knows the other; contexts that use replaced files."""

from __future__ import annotations

import contextlib
import os
import shlex
import ssl
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from guideway.delivery.connection.secret import Secret
from guideway.schemas.failures import FailureCode, Refusal

log = structlog.get_logger(__name__)

_JAVA: Final = {b"\xfe\xed\xfe\xed": "JKS", b"\xce\xce\xce\xce": "JCEKS"}


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates and keys, in PEM. Files are read for each new connection once they have changed."""

    ca: Path | None = None
    """File with the certificates of the authorities that brokers are signed by; without it, the system's."""
    ca_pem: str | None = None
    """The same as text."""
    certificate: Path | None = None
    """File with this client's own certificate (mTLS), followed by those between it and the authority's."""
    key: Path | None = None
    """File with its private key; without it, the certificate's file holds it too."""
    pair_pem: Secret | None = None
    """Key and certificates as one text, instead of the two files."""
    key_password: Secret | None = None
    """What the private key is encrypted with."""
    check_host: bool = True
    """Whether the name in a broker's certificate must be the one that we connect to."""
    verify: bool = True
    """Whether a broker must show a certificate of an authority at all. False: anybody can be the broker."""

    def __post_init__(self) -> None:
        if self.ca is not None and self.ca_pem is not None:
            raise _refused("the authorities' certificates are given twice, as a file and as text: give one")
        if self.certificate is not None and self.pair_pem is not None:
            raise _refused("this client's certificate is given twice, as a file and as text: give one")
        if self.key is not None and self.certificate is None:
            raise _refused("a private key is given without its certificate: name it in ssl.certificate.location")
        if self.key_password is not None and self.certificate is None and self.pair_pem is None:
            raise _refused("a password of a private key is given, but no key: name it in ssl.key.location")

    def context(self) -> ssl.SSLContext:
        """For clients; one for all of the process. Raises Refusal(invalid_setting) for files that are not usable."""
        return _context(self)

    @property
    def files(self) -> tuple[Path, ...]:
        """What new connections read."""
        named = (self.ca, self.certificate, self.key, self.key_password.file if self.key_password else None)
        return tuple(file for file in named if file is not None)

    @property
    def shows_certificate(self) -> bool:
        """Whether this client has a certificate of its own."""
        return self.certificate is not None or self.pair_pem is not None

    def certificate_until(self) -> datetime | None:
        """When this client's certificate ends; None without one in a file that can be read."""
        if self.certificate is None:
            return None
        try:
            # Private, and there since Python 2.6: the module's own tests read certificates by it.
            told: dict[str, Any] = ssl._ssl._test_decode_cert(str(self.certificate))  # type: ignore[attr-defined]
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(told["notAfter"]), UTC)
        except (OSError, ValueError, AttributeError, KeyError):
            return None


class RenewedContext(ssl.SSLContext):
    """A context for clients that reads its files again when they have changed, before the next connection.

    Files that are not usable, as while they are being replaced, leave what was read before; that is logged.
    """

    def __new__(cls, tls: Tls) -> RenewedContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, tls: Tls) -> None:
        """Raises Refusal(invalid_setting)."""
        self._tls = tls
        self._lock = threading.Lock()
        self._stamp = _stamp(tls.files)
        self._present = _made(tls)
        # Who holds this context asks it these.
        self.check_hostname = self._present.check_hostname
        self.verify_mode = self._present.verify_mode

    @property
    def tls(self) -> Tls:
        """What it was made of."""
        return self._tls

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        """For asyncio, which calls it once for each connection."""
        return self._renewed().wrap_bio(*args, **named)

    def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
        return self._renewed().wrap_socket(*args, **named)

    def _renewed(self) -> ssl.SSLContext:
        with self._lock:
            stamp = _stamp(self._tls.files)
            if stamp != self._stamp:
                try:
                    self._present = _made(self._tls)
                    self._stamp = stamp
                    log.info("changed certificates are used for new connections", files=_named(self._tls.files))
                except Refusal as refusal:
                    log.warning("changed certificates are not usable; the former ones stay", why=refusal.message)
            return self._present


@lru_cache(maxsize=64)
def _context(tls: Tls) -> RenewedContext:
    return RenewedContext(tls)


def _stamp(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Differs once a file has been replaced or written to."""
    found: list[object] = []
    for file in files:
        try:
            status = file.stat()
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


def _made(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.check_host and tls.verify
    context.verify_mode = ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE
    if tls.ca is None and tls.ca_pem is None:
        context.load_default_certs()
    else:
        pem = tls.ca_pem if tls.ca is None else _pem(tls.ca, "the authorities' certificates", trust=True)
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError):
            raise _refused(
                f"{tls.ca or 'the text of ssl.ca.pem'} holds no certificates in PEM that can be read"
            ) from None
    if tls.certificate is not None:
        _load_pair(context, tls.certificate, tls.key, tls.key_password)
    elif tls.pair_pem is not None:
        with _in_file(tls.pair_pem) as file:
            _load_pair(context, file, None, tls.key_password)
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None, password: Secret | None) -> None:
    for file, what in ((certificate, "this client's certificate"), (key, "the private key")):
        if file is not None:
            _pem(file, what, trust=False)

    def tell() -> str:
        # Without an answer from us OpenSSL asks at the terminal, and a service hangs.
        if password is None:
            raise _refused(f"the private key in {key or certificate} is encrypted: give ssl.key.password")
        return password.reveal()

    try:
        context.load_cert_chain(certificate, key, tell)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the private key is not the one of the certificate: name the two that belong together"
        elif password is not None and error.reason != "NO_START_LINE":
            why = "the private key cannot be read: ssl.key.password may be wrong"
        elif key is None:
            why = "no private key stands beside the certificate: name its file in ssl.key.location"
        else:
            why = "certificate or private key cannot be read: both are to be PEM"
        raise _refused(f"{certificate}{f' and {key}' if key else ''}: {why}") from None


def _pem(file: Path, what: str, *, trust: bool) -> str:
    """The file's text. Raises Refusal with how to convert it, if it is one of Java's."""
    try:
        found = file.read_bytes()
    except OSError as error:
        raise _refused(f"{what}, {file}, cannot be read: {error.strerror or type(error).__name__}") from None
    if b"-----BEGIN" in found:
        return found.decode("ascii", "replace")
    kind = _JAVA.get(found[:4], "PKCS12" if found[:1] == b"\x30" else "")
    if not kind:
        raise _refused(f"{what}, {file}, is not PEM: name a file with -----BEGIN … in it")
    raise _refused(
        f"{what}, {file}, is {kind}, which guideway does not read. Make PEM of it: {_made_pem(file, kind, trust)}"
    )


def _made_pem(file: Path, kind: str, trust: bool) -> str:
    there = shlex.quote(str(file))
    if trust:
        return f"keytool -list -rfc -keystore {there} > ca.pem"
    if kind == "PKCS12":
        return f"openssl pkcs12 -in {there} -out pair.pem"
    first = f"keytool -importkeystore -srckeystore {there} -destkeystore pair.p12 -deststoretype PKCS12"
    return f"{first} && openssl pkcs12 -in pair.p12 -out pair.pem"


@contextlib.contextmanager
def _in_file(secret: Secret) -> Iterator[Path]:
    """OpenSSL takes keys from files only: it is there as long as it is being read, and only for us."""
    with tempfile.NamedTemporaryFile("w", prefix="guideway-", suffix=".pem") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(secret.reveal())
        file.flush()
        yield Path(file.name)


def _named(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files))


def _refused(why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, why)
