"""Files of certificates and keys: what cannot be used is told with what makes it usable; changed ones are used."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.secured.certificates import NO_OPENSSL, Authority, have_openssl

from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.tls import RenewedContext, Tls
from guideway.schemas.failures import FailureCode, Refusal

pytestmark = pytest.mark.skipif(not have_openssl(), reason=NO_OPENSSL)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.made(tmp_path_factory.mktemp("tls") / "ca")


def encrypted(key: Path, password: str) -> Path:
    made = key.with_suffix(".enc")
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(made), "-passout", f"pass:{password}"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def test_keys_in_every_form_are_taken(authority: Authority) -> None:
    shown = authority.issue("me", client=True)
    locked = encrypted(shown.key, "hush")
    text = Secret(shown.both.read_text())
    for tls in (
        Tls(ca=authority.certificate),
        Tls(ca_pem=authority.certificate.read_text()),
        Tls(certificate=shown.certificate, key=shown.key),
        Tls(certificate=shown.both),
        Tls(pair_pem=text),
        Tls(certificate=shown.certificate, key=locked, key_password=Secret("hush")),
        Tls(check_host=False),
        Tls(verify=False),
    ):
        context = tls.context()
        assert context is tls.context()
        assert context.check_hostname == (tls.check_host and tls.verify)
    until = Tls(certificate=shown.certificate, key=shown.key).certificate_until()
    assert until is not None
    assert timedelta(days=29) < until - datetime.now(UTC) < timedelta(days=31)


WRONG: dict[str, tuple[Callable[[Authority, Path], dict[str, Any]], str]] = {
    "gone": (lambda a, f: {"ca": f / "gone.pem"}, "gone.pem, cannot be read: No such file"),
    "empty": (lambda a, f: {"ca": written(f, b"")}, "is not PEM: name a file with -----BEGIN"),
    "jks": (lambda a, f: {"ca": written(f, b"\xfe\xed\xfe\xed..")}, "is JKS, .*: keytool -list -rfc -keystore .* > ca"),
    "p12": (lambda a, f: {"ca": written(f, b"0\x82..")}, "is PKCS12, which guideway does not read.*: keytool -list"),
    "a pair of JKS": (
        lambda a, f: {"certificate": written(f, b"\xfe\xed\xfe\xed..")},
        "keytool -importkeystore .* && openssl pkcs12 -in pair.p12 -out pair.pem",
    ),
    "a pair of PKCS12": (lambda a, f: {"certificate": written(f, b"0\x82..")}, "of it: openssl pkcs12 -in .*pair.pem"),
    "torn": (lambda a, f: {"ca": written(f, b"-----BEGIN CERTIFICATE-----\nAA")}, "no certificates in PEM"),
    "no key": (lambda a, f: {"certificate": a.issue("me").certificate}, "no private key stands beside"),
    "another's key": (lambda a, f: {"certificate": a.issue("me").certificate, "key": a.issue("me").key}, "belong toge"),
    "locked": (lambda a, f: locked_pair(a, None), "is encrypted: give ssl.key.password"),
    "locked otherwise": (lambda a, f: locked_pair(a, "loud"), "cannot be read: ssl.key.password may be wrong"),
    "key alone": (lambda a, f: {"key": a.key}, "without its certificate"),
    "password alone": (lambda a, f: {"key_password": Secret("loud")}, "but no key"),
    "twice": (lambda a, f: {"ca": a.certificate, "ca_pem": "x"}, "given twice"),
}


def written(folder: Path, content: bytes) -> Path:
    (folder / "store").write_bytes(content)
    return folder / "store"


def locked_pair(authority: Authority, password: str | None) -> dict[str, Any]:
    shown = authority.issue("me", client=True)
    given = {"key_password": Secret(password)} if password else {}
    return {"certificate": shown.certificate, "key": encrypted(shown.key, "hush"), **given}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_used_is_told(authority: Authority, tmp_path: Path, kind: str) -> None:
    make, says = WRONG[kind]
    with pytest.raises(Refusal, match=says) as caught:
        Tls(**make(authority, tmp_path)).context()
    assert caught.value.code is FailureCode.INVALID_SETTING
    assert "loud" not in caught.value.message


def test_changed_files_are_used_and_torn_ones_are_not(authority: Authority, tmp_path: Path) -> None:
    first, second = authority.issue("first", client=True), authority.issue("second", client=True)
    file = tmp_path / "me.pem"
    file.write_bytes(first.both.read_bytes())
    context = RenewedContext(Tls(ca=authority.certificate, certificate=file))

    def present() -> ssl.SSLContext:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
        return context._present

    before = present()
    assert present() is before
    with capture_logs() as lines:
        file.write_text("-----BEGIN half")
        assert present() is before
        file.unlink()
        assert present() is before
        # As Kubernetes replaces a secret: another file under the same name.
        (tmp_path / "new").write_bytes(second.both.read_bytes())
        os.replace(tmp_path / "new", file)
        after = present()
        assert after is not before
        assert present() is after
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]
