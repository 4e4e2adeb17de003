"""Where a client's login comes from: variables of the environment and a properties file, checked against each other."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from guideway.delivery.connection import words
from guideway.delivery.connection.properties import Malformed, read_properties
from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.security import (
    MECHANISMS,
    OAUTHBEARER,
    PASSWORD_MECHANISMS,
    PasswordLogin,
    Protocol,
    Security,
    TokenLogin,
    is_local,
)
from guideway.delivery.connection.tls import Tls
from guideway.delivery.connection.words import Said, refused
from guideway.schemas.nearest import did_you_mean

CLIENT_CONFIG: Final = "KAFKA_CLIENT_CONFIG"
_BROKERS, *_OTHERS = map(words.variable, words.IN_ENVIRONMENT)
VARIABLES: Final = (_BROKERS, CLIENT_CONFIG, *_OTHERS)
"""All variables that are read here."""
SECRET_VARIABLES: Final = frozenset(map(words.variable, words.SECRETS))
FILE_VARIABLES: Final = frozenset({CLIENT_CONFIG, *map(words.variable, words.FILES)})
_MAX_BYTES: Final = 1_000_000
_PASSWORD_WORDS: Final = (words.USERNAME, words.PASSWORD, words.in_file(words.PASSWORD))
_TOKEN_WORDS: Final = (
    *(words.TOKEN_URL, words.TOKEN_CLIENT, words.TOKEN_SECRET, words.in_file(words.TOKEN_SECRET)),
    *(words.TOKEN_SCOPE, words.TOKEN_EXTENSIONS),
)
_TLS_WORDS: Final = (
    *(words.CA, words.CA_PEM, words.CERTIFICATE, words.CERTIFICATE_PEM, words.KEY, words.KEY_PEM),
    *(words.KEY_PASSWORD, words.in_file(words.KEY_PASSWORD)),
)


class Reading(NamedTuple):
    """What was found."""

    brokers: str
    """As written."""
    where: str
    """Who says so."""
    security: Security
    warnings: tuple[str, ...]
    """What works and is not safe."""
    ignored: tuple[str, ...]
    """Words of the file that have no effect here."""


def read(environ: Mapping[str, str]) -> Reading | None:
    """What the environment, and the file that it names, say of the cluster; None if they say nothing.

    Raises Refusal(invalid_setting), which names the variable, or the file and the line, and never quotes a secret.
    """
    named = environ.get(CLIENT_CONFIG, "").strip()
    said: dict[str, Said] = words.of_environment(environ)
    if not named and not said:
        return None
    ignored: tuple[str, ...] = ()
    warnings = []
    if named:
        file = Path(named).expanduser().absolute()
        text, mode = _text(file)
        try:
            spoken = words.of_file(read_properties(text), file)
        except Malformed as error:
            raise refused(f"{file} cannot be read: {error}") from None
        if mode & stat.S_IROTH and any(word in spoken.words for word in (*words.SECRETS, words.KEY_PEM)):
            warnings.append(f"{file} holds a secret and can be read by everybody: chmod 600 {file}")
        said, ignored = words.together(said, spoken.words), spoken.ignored
    if words.BROKERS not in said:
        where = f"add {words.BROKERS} to {named}, or set" if named else "set"
        raise refused(f"a login is given, and no brokers: {where} {words.variable(words.BROKERS)}")
    security = _security(said)
    return Reading(*said[words.BROKERS], security, (*warnings, *_doubts(said, security)), ignored)


def _text(file: Path) -> tuple[str, int]:
    """What stands in the file, and its mode."""
    try:
        with file.open("rb") as opened:
            mode = file.stat().st_mode
            found = opened.read(_MAX_BYTES + 1) if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) else b""
    except OSError as error:
        raise refused(f"{CLIENT_CONFIG}: {file} cannot be read: {error.strerror or type(error).__name__}") from None
    if len(found) > _MAX_BYTES:
        raise refused(f"{CLIENT_CONFIG}: {file} is larger than {_MAX_BYTES:,} bytes: it is to hold settings only")
    try:
        return found.decode("utf-8"), mode
    except UnicodeDecodeError as error:
        raise refused(f"{CLIENT_CONFIG}: {file} is not UTF-8 (byte {error.start}): convert it") from None


def _security(said: Mapping[str, Said]) -> Security:
    protocol = _protocol(said)
    encrypted = protocol in (Protocol.SSL, Protocol.SASL_SSL)
    logs_in = protocol in (Protocol.SASL_PLAINTEXT, Protocol.SASL_SSL)
    for wanted, of_these, instead in (
        (logs_in, (words.MECHANISM, words.JAAS, *_PASSWORD_WORDS, *_TOKEN_WORDS), "SASL_SSL"),
        (encrypted, _TLS_WORDS, "SASL_SSL" if logs_in else "SSL"),
    ):
        if not wanted and (found := [said[word].where for word in of_these if word in said]):
            now = protocol if words.PROTOCOL in said else f"not set, which means {protocol}"
            raise refused(
                f"{found[0]} is given, but {words.PROTOCOL} is {now}: set that to {instead}, or remove the former"
            )
    return Security(tls=_tls(said) if encrypted else None, login=_login(said) if logs_in else None)


def _protocol(said: Mapping[str, Said]) -> Protocol:
    if words.PROTOCOL not in said:
        return Protocol.PLAINTEXT
    value, where = said[words.PROTOCOL]
    # librdkafka writes it small.
    if value.upper() not in set(Protocol):
        near = did_you_mean(value.upper(), Protocol)
        raise refused(f"{where} is {value[:40]!r}, which is no protocol: {near}there are {', '.join(Protocol)}")
    return Protocol(value.upper())


def _tls(said: Mapping[str, Said]) -> Tls:
    def file(word: str) -> Path | None:
        return Path(said[word].value).expanduser() if word in said else None

    pair = None
    if words.CERTIFICATE_PEM in said or words.KEY_PEM in said:
        if words.CERTIFICATE_PEM not in said or words.KEY_PEM not in said:
            alone = said.get(words.CERTIFICATE_PEM) or said[words.KEY_PEM]
            raise refused(f"{alone.where} is given alone: a certificate as text and its key as text belong together")
        pair = Secret(f"{said[words.KEY_PEM].value}\n{said[words.CERTIFICATE_PEM].value}")
    return Tls(
        ca=file(words.CA),
        ca_pem=said[words.CA_PEM].value if words.CA_PEM in said else None,
        certificate=file(words.CERTIFICATE),
        key=file(words.KEY),
        pair_pem=pair,
        key_password=_secret(said, words.KEY_PASSWORD),
        check_host=_checks_host(said),
        verify=_truth(said, words.VERIFY, default=True),
    )


def _login(said: Mapping[str, Said]) -> PasswordLogin | TokenLogin:
    if words.MECHANISM not in said:
        raise refused(
            f"{words.PROTOCOL} is a SASL one, and {words.MECHANISM} is missing: say which of {', '.join(MECHANISMS)} "
            "the cluster has"
        )
    mechanism, where = said[words.MECHANISM].value.upper(), said[words.MECHANISM].where
    if mechanism not in MECHANISMS:
        near = did_you_mean(mechanism, MECHANISMS)
        raise refused(f"{where} is {mechanism[:40]!r}, which guideway has not: {near}it has {', '.join(MECHANISMS)}")
    module = said.get(words.JAAS)
    if module is not None and not mechanism.startswith(module.value):
        raise refused(f"{module.where} is for {module.value.rstrip('-')}, and {where} is {mechanism}: make them agree")
    others = _TOKEN_WORDS if mechanism in PASSWORD_MECHANISMS else _PASSWORD_WORDS
    if alien := [said[word].where for word in others if word in said]:
        raise refused(f"{alien[0]} does not belong to {words.MECHANISM} {mechanism}: remove it, or correct {where}")
    return _by_password(said, mechanism) if mechanism in PASSWORD_MECHANISMS else _by_token(said)


def _by_password(said: Mapping[str, Said], mechanism: str) -> PasswordLogin:
    password = _secret(said, words.PASSWORD)
    if words.USERNAME not in said or password is None:
        lacking = words.USERNAME if words.USERNAME not in said else words.PASSWORD
        raise _missing(lacking, mechanism)
    return PasswordLogin(mechanism=mechanism, username=said[words.USERNAME].value, password=password)


def _by_token(said: Mapping[str, Said]) -> TokenLogin:
    secret = _secret(said, words.TOKEN_SECRET)
    if words.TOKEN_URL not in said or words.TOKEN_CLIENT not in said or secret is None:
        needed = (words.TOKEN_URL, words.TOKEN_CLIENT, words.TOKEN_SECRET)
        raise _missing(next(word for word in needed if word not in said), OAUTHBEARER)
    extensions = said[words.TOKEN_EXTENSIONS] if words.TOKEN_EXTENSIONS in said else Said("", "")
    pairs = [pair.partition("=") for pair in extensions.value.split(",") if pair.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise refused(f"{extensions.where} is to be NAME=VALUE, several with commas")
    return TokenLogin(
        endpoint=said[words.TOKEN_URL].value,
        client_id=said[words.TOKEN_CLIENT].value,
        secret=secret,
        scope=said[words.TOKEN_SCOPE].value if words.TOKEN_SCOPE in said else None,
        ca=Path(said[words.TOKEN_CA].value).expanduser() if words.TOKEN_CA in said else None,
        extensions=tuple((name.strip(), value.strip()) for name, _, value in pairs),
    )


def _missing(word: str, mechanism: str) -> Exception:
    file = f", {words.variable(words.in_file(word))} (a file that holds it)" if word in words.SECRETS else ""
    return refused(f"{mechanism} needs {word}: set {words.variable(word)}{file}, or write it into the properties file")


def _secret(said: Mapping[str, Said], word: str) -> Secret | None:
    if (file := words.in_file(word)) in said:
        return Secret.in_file(Path(said[file].value).expanduser().absolute())
    return Secret(said[word].value) if word in said else None


def _checks_host(said: Mapping[str, Said]) -> bool:
    value, where = said.get(words.HOST_CHECK, Said("https", ""))
    if value.lower() not in ("https", "none", ""):
        raise refused(f"{where} is {value[:40]!r}: it is https, or none for no check of the broker's name")
    return value.lower() == "https"


def _truth(said: Mapping[str, Said], word: str, *, default: bool) -> bool:
    if word not in said:
        return default
    value, where = said[word]
    if not re.fullmatch("true|false|1|0", value, re.IGNORECASE):
        raise refused(f"{where} is {value[:40]!r}: it is true or false")
    return value.lower() in ("true", "1")


def _doubts(said: Mapping[str, Said], security: Security) -> list[str]:
    """What is allowed and not safe."""
    found = []
    hosts = [broker.strip().rpartition(":")[0] for broker in said[words.BROKERS].value.split(",")]
    if security.protocol is Protocol.SASL_PLAINTEXT and (far := [host for host in hosts if not is_local(host)]):
        found.append(
            f"{words.PROTOCOL} is SASL_PLAINTEXT, and {far[0]} is another machine: whoever is on the way reads all "
            "that is sent, and can take over the login; use SASL_SSL"
        )
    if security.tls is not None and not security.tls.verify:
        found.append(f"{words.VERIFY} is false: anybody can pass for the brokers; name their authority in {words.CA}")
    elif security.tls is not None and not security.tls.check_host:
        found.append(f"{words.HOST_CHECK} is off: any host with a certificate of that authority can pass for a broker")
    for file in security.files:
        try:
            if file.stat().st_mode & stat.S_IROTH:
                found.append(f"{file} holds a secret and can be read by everybody: chmod 600 {file}")
        except OSError:
            pass
    return found
