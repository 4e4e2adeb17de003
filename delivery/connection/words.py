"""The words in which users of Java's client and of librdkafka say how to log in. Pure.

Each thing has one name here: librdkafka's, or ours where it has none. The variable of the environment is `KAFKA_` and
that name in capitals: `ssl.ca.location` is KAFKA_SSL_CA_LOCATION.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from guideway.delivery.connection import jaas
from guideway.delivery.connection.properties import Property
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.nearest import nearest

BROKERS: Final = "bootstrap.servers"
PROTOCOL: Final = "security.protocol"
MECHANISM: Final = "sasl.mechanism"
USERNAME: Final = "sasl.username"
PASSWORD: Final = "sasl.password"
CA: Final = "ssl.ca.location"
CA_PEM: Final = "ssl.ca.pem"
CERTIFICATE: Final = "ssl.certificate.location"
CERTIFICATE_PEM: Final = "ssl.certificate.pem"
KEY: Final = "ssl.key.location"
KEY_PEM: Final = "ssl.key.pem"
KEY_PASSWORD: Final = "ssl.key.password"
HOST_CHECK: Final = "ssl.endpoint.identification.algorithm"
VERIFY: Final = "enable.ssl.certificate.verification"
TOKEN_URL: Final = "sasl.oauthbearer.token.endpoint.url"
TOKEN_CLIENT: Final = "sasl.oauthbearer.client.id"
TOKEN_SECRET: Final = "sasl.oauthbearer.client.secret"
TOKEN_SCOPE: Final = "sasl.oauthbearer.scope"
TOKEN_EXTENSIONS: Final = "sasl.oauthbearer.extensions"
TOKEN_CA: Final = "https.ca.location"
JAAS: Final = "sasl.jaas.config"

SECRETS: Final = (PASSWORD, KEY_PASSWORD, TOKEN_SECRET)
"""Each may stand in a file of its own instead: `sasl.password.file`."""


def in_file(secret: str) -> str:
    """The word that names a secret's file."""
    return f"{secret}.file"


WORDS: Final = (
    *(BROKERS, PROTOCOL, MECHANISM, USERNAME, *SECRETS, *map(in_file, SECRETS)),
    *(CA, CA_PEM, CERTIFICATE, CERTIFICATE_PEM, KEY, KEY_PEM, HOST_CHECK, VERIFY),
    *(TOKEN_URL, TOKEN_CLIENT, TOKEN_SCOPE, TOKEN_EXTENSIONS, TOKEN_CA),
)
IN_ENVIRONMENT: Final = tuple(word for word in WORDS if word not in (CA_PEM, CERTIFICATE_PEM, KEY_PEM))
"""Those that have a variable."""
FILES: Final = (*map(in_file, SECRETS), CA, CERTIFICATE, KEY, TOKEN_CA)
"""Those that name a file, relative to the one that names it."""
EITHER: Final = (
    *((secret, in_file(secret)) for secret in SECRETS),
    (CA, CA_PEM),
    (CERTIFICATE, CERTIFICATE_PEM),
    (KEY, KEY_PEM),
)
"""Of each pair one is given."""

_OTHER_NAMES: Final = {
    "metadata.broker.list": BROKERS,
    "sasl.mechanisms": MECHANISM,
    "ssl.truststore.location": CA,
    "ssl.truststore.certificates": CA_PEM,
    "ssl.keystore.location": CERTIFICATE,
    "ssl.keystore.certificate.chain": CERTIFICATE_PEM,
    "ssl.keystore.key": KEY_PEM,
    "sasl.oauthbearer.client.credentials.client.id": TOKEN_CLIENT,
    "sasl.oauthbearer.client.credentials.client.secret": TOKEN_SECRET,
}
_PACKAGE: Final = "org.apache.kafka.common.security.oauthbearer"
_ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    "sasl.oauthbearer.method": ("oidc",),
    "sasl.oauthbearer.grant.type": ("client_credentials",),
    "sasl.oauthbearer.header.urlencode": ("false",),
    "enable.sasl.oauthbearer.unsecure.jwt": ("false",),
    "sasl.oauthbearer.jwt.retriever.class": tuple(
        f"{_PACKAGE}.{name}JwtRetriever" for name in ("ClientCredentials", "Default")
    ),
    "sasl.login.callback.handler.class": tuple(
        f"{_PACKAGE}.{part}OAuthBearerLoginCallbackHandler" for part in ("", "secured.")
    ),
    "ssl.protocol": ("TLS", "TLSv1.2", "TLSv1.3"),
    "ssl.enabled.protocols": ("TLSv1.2", "TLSv1.2,TLSv1.3", "TLSv1.3,TLSv1.2"),
}
"""What has no effect here and may be said, with the values that agree with what is done."""
_NO_MATTER: Final = (
    *("ssl.truststore.type", "ssl.truststore.password", "ssl.keystore.type", "ssl.keystore.password"),
    *("ssl.secure.random.implementation", "ssl.keymanager.algorithm", "ssl.trustmanager.algorithm"),
    *("sasl.login.refresh.", "sasl.login.connect.timeout.ms", "sasl.login.read.timeout.ms", "sasl.login.retry."),
    *("sasl.oauthbearer.clock.skew.seconds", "sasl.oauthbearer.sub.claim.name", "sasl.oauthbearer.scope.claim.name"),
    *("sasl.oauthbearer.expected.", "sasl.oauthbearer.jwks.", "security.providers"),
)
"""Beginnings of words that tune Java's own machinery, or say of a store what its contents say."""
_SECURITY: Final = ("ssl.", "sasl.", "security.", "https.", "enable.ssl", "enable.sasl", "oauth")
"""Beginnings of words that are about security: one that nobody knows must not be passed over."""
_MODULES: Final = {
    "PlainLoginModule": {"username": USERNAME, "password": PASSWORD},
    "ScramLoginModule": {"username": USERNAME, "password": PASSWORD},
    "OAuthBearerLoginModule": {"clientId": TOKEN_CLIENT, "clientSecret": TOKEN_SECRET, "scope": TOKEN_SCOPE},
}
_MECHANISMS: Final = {
    "PlainLoginModule": "PLAIN",
    "ScramLoginModule": "SCRAM-",
    "OAuthBearerLoginModule": "OAUTHBEARER",
}


class Said(NamedTuple):
    """What somebody says of one thing."""

    value: str
    where: str
    """`sasl.password in client.properties`, `KAFKA_SASL_PASSWORD`."""


class Spoken(NamedTuple):
    """What a properties file says."""

    words: Mapping[str, Said]
    ignored: tuple[str, ...]
    """Words that have no effect here."""


def variable(word: str) -> str:
    """The word's variable of the environment."""
    return f"KAFKA_{word.upper().replace('.', '_')}"


def of_environment(environ: Mapping[str, str]) -> dict[str, Said]:
    """What its variables say; an empty one says nothing. Raises Refusal for two that exclude each other."""
    words = {
        word: Said(value if word in SECRETS else value.strip(), variable(word))
        for word in IN_ENVIRONMENT
        if (value := environ.get(variable(word), "")).strip()
    }
    _check_either(words)
    return words


def of_file(properties: Iterable[Property], file: Path) -> Spoken:
    """What a client's properties say. Raises Refusal for words about security that are unknown or not provided for."""
    words: dict[str, Said] = {}
    ignored: list[str] = []

    def say(word: str, value: str, where: str) -> None:
        if word in words and words[word].value != value:
            raise refused(f"{where} and {words[word].where} say different things: keep one of them")
        if word in FILES:
            value = str(file.parent / Path(value).expanduser())
        words[word] = Said(value, where)

    for key, value, line in properties:
        where = f"{key} in {file} (line {line})"
        word = _OTHER_NAMES.get(key, key)
        if key == JAAS:
            for name, told in _of_jaas(value, where).items():
                say(name, told, where)
        elif word in WORDS:
            # Java says "no check" by an empty text; of anything else that says nothing.
            if value.strip() or word == HOST_CHECK:
                say(word, value if word in SECRETS else value.strip(), where)
        elif key in _ONLY:
            if "".join(value.split()) not in _ONLY[key]:
                raise refused(f"{where} is {value[:80]!r}, and guideway has {' or '.join(_ONLY[key])} only")
            ignored.append(key)
        elif key.startswith(_NO_MATTER):
            ignored.append(key)
        else:
            _require_harmless(key, where)
            ignored.append(key)
    _check_either(words)
    return Spoken(words, tuple(ignored))


def together(environment: Mapping[str, Said], file: Mapping[str, Said]) -> dict[str, Said]:
    """The environment goes before the file, also where it says the same thing in another way."""
    hidden = {other for pair in EITHER for word in pair if word in environment for other in pair}
    return {word: said for word, said in file.items() if word not in hidden} | dict(environment)


def _of_jaas(text: str, where: str) -> dict[str, str]:
    try:
        module, options = jaas.read_jaas(text)
    except jaas.Malformed as error:
        raise refused(f"{where} cannot be read: {error}") from None
    known = _MODULES.get(module)
    if known is None:
        raise refused(f"{where} names {module[:60]}; guideway has {', '.join(_MODULES)}")
    found = {JAAS: _MECHANISMS[module]}
    extensions = []
    for name, value in options.items():
        if name in known:
            found[known[name]] = value
        elif module == "OAuthBearerLoginModule" and name.startswith("extension_"):
            extensions.append(f"{name.removeprefix('extension_')}={value}")
        else:
            raise refused(f"{where} has the option {name[:40]}, which {module} has not here: it has {', '.join(known)}")
    return found | ({TOKEN_EXTENSIONS: ",".join(extensions)} if extensions else {})


def _require_harmless(key: str, where: str) -> None:
    """A word that nobody here knows may be a client's tuning, and may be a misspelt password."""
    known = [*WORDS, *_OTHER_NAMES, JAAS]
    plain = key.lower().replace("_", ".").replace("-", ".")
    is_about_security = plain.startswith(_SECURITY)
    near = nearest(plain, known, least=0.6 if is_about_security else 0.85)
    if is_about_security or near is not None:
        meant = f"did you mean {near}? " if near else ""
        raise refused(f"{where} is about security, and guideway does not know it: {meant}Correct it, or remove it")


def _check_either(words: Mapping[str, Said]) -> None:
    for one, other in EITHER:
        if one in words and other in words:
            raise refused(f"{words[one].where} and {words[other].where} say the same thing: keep one of them")


def refused(why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, why)
