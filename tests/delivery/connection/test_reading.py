"""What the environment and a client's properties say of the login, and what is refused of it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import msgspec
import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.reading import read
from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.security import PasswordLogin, Protocol, Security, TokenLogin
from guideway.delivery.connection.words import SECRETS, variable
from guideway.schemas.failures import FailureCode, Refusal

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
BEARER = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
USER = 'username="shop" password="hush"'
SASL = "bootstrap.servers=b:1\nsecurity.protocol=SASL_SSL\n"
LOGIN = "sasl.username=shop\nsasl.password=hush\n"
TOKEN_URL = "sasl.oauthbearer.token.endpoint.url"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "client.properties"


def security_of(config: Path, text: str, **environ: str) -> Security:
    config.write_text(text)
    config.chmod(0o600)
    found = read({"KAFKA_CLIENT_CONFIG": str(config), **environ})
    assert found is not None
    return found.security


def test_nothing_said_is_no_cluster() -> None:
    assert read({"KAFKA_BOOTSTRAP_SERVERS": " ", "KAFKA_HOME": "/opt/kafka"}) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("style", ["jaas", "librdkafka", "environment", "file", "mixed"])
def test_a_password_in_every_style(config: Path, mechanism: str, style: str) -> None:
    module = PLAIN if mechanism == "PLAIN" else SCRAM
    (config.parent / "secret").write_text("hush\n")
    ours = {
        "KAFKA_BOOTSTRAP_SERVERS": "b:1",
        "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA_SASL_MECHANISM": mechanism,
        "KAFKA_SASL_USERNAME": "shop",
        "KAFKA_SASL_PASSWORD": "hush",
    }
    match style:
        case "jaas":
            found = security_of(config, f"{SASL}sasl.mechanism={mechanism}\nsasl.jaas.config={module} \\\n {USER};")
        case "librdkafka":
            text = f"metadata.broker.list=b:1\nsecurity.protocol=sasl_ssl\nsasl.mechanisms={mechanism}\n{LOGIN}"
            found = security_of(config, text)
        case "file":
            text = f"{SASL}sasl.mechanism={mechanism}\nsasl.username=shop\nsasl.password.file=secret\n"
            found = security_of(config, text)
        case "mixed":
            # The environment goes before the file, also where that says it in another way.
            text = f"{SASL}sasl.mechanism={mechanism}\nsasl.username=other\nsasl.password.file=gone\n"
            found = security_of(config, text, KAFKA_SASL_USERNAME="shop", KAFKA_SASL_PASSWORD="hush")
        case _:
            made = read(ours)
            assert made is not None
            assert made.brokers == "b:1"
            found = made.security
    assert found.protocol is Protocol.SASL_SSL
    assert isinstance(found.login, PasswordLogin)
    assert (found.login.mechanism, found.login.username) == (mechanism, "shop")
    assert found.login.password.reveal() == "hush"


@pytest.mark.parametrize(
    "text",
    [
        f"{TOKEN_URL}=https://idp/t\nsasl.oauthbearer.method=oidc\nsasl.oauthbearer.client.id=c\n"
        "sasl.oauthbearer.client.secret=hush\nsasl.oauthbearer.scope=kafka\nsasl.oauthbearer.extensions=a=1,b=2\n",
        f"{TOKEN_URL}=https://idp/t\nsasl.oauthbearer.client.credentials.client.id=c\n"
        "sasl.oauthbearer.client.credentials.client.secret=hush\nsasl.oauthbearer.scope=kafka\n"
        "sasl.oauthbearer.extensions=a=1,b=2\nsasl.login.callback.handler.class="
        "org.apache.kafka.common.security.oauthbearer.secured.OAuthBearerLoginCallbackHandler\n",
        f"{TOKEN_URL}=https://idp/t\nsasl.jaas.config={BEARER} clientId='c' clientSecret='hush' scope='kafka' "
        "extension_a='1' extension_b='2';\n",
    ],
)
def test_tokens_in_both_languages(config: Path, text: str) -> None:
    found = security_of(config, f"{SASL}sasl.mechanism=OAUTHBEARER\n{text}").login
    assert found == TokenLogin(
        endpoint="https://idp/t",
        client_id="c",
        secret=Secret("hush"),
        scope="kafka",
        extensions=(("a", "1"), ("b", "2")),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"{SASL}sasl.mechanism=PLAIN\nsasl.usrename=shop\n",
            r"\(line 4\) is about .*mean sasl.username",
        ),
        (f"{SASL}bootstrap.server=b:1\n", "mean bootstrap.servers"),
        (f"{SASL}ssl.crl.location=x\n", "about security"),
        ("bootstrap.servers=b:1\nsecurity.protocol=SASL_SLS\n", "mean SASL_SSL"),
        ("security.protocol=SASL_SSL\n", "no brokers: add bootstrap.servers"),
        (f"bootstrap.servers=b:1\n{LOGIN}", "sasl.username in .* is given, but security.protocol is not set.*SASL_SSL"),
        ("bootstrap.servers=b:1\nsecurity.protocol=SSL\nsasl.password=hush\n", "security.protocol is SSL.*SASL_SSL"),
        ("bootstrap.servers=b:1\nssl.ca.location=ca.pem\n", "which means PLAINTEXT: set that to SSL, or remove"),
        (f"{SASL}{LOGIN}", "sasl.mechanism is missing: say which of PLAIN, SCRAM-SHA-256"),
        (f"{SASL}{LOGIN}sasl.mechanism=GSSAPI\n", "'GSSAPI', which guideway has not"),
        (f"{SASL}{LOGIN}sasl.mechanism=SCRAM-SHA512\n", "mean SCRAM-SHA-512"),
        (f"{SASL}sasl.mechanism=PLAIN\nsasl.username=shop\n", "PLAIN needs sasl.password: set KAFKA_SASL_PASSWORD, K"),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nsasl.jaas.config={PLAIN} {USER};\nsasl.username=shoq\n", "different"),
        (f"{SASL}sasl.mechanism=PLAIN\nsasl.jaas.config={SCRAM} {USER};\n", "is for SCRAM, and sasl.mechanism"),
        (f"{SASL}sasl.mechanism=PLAIN\nsasl.jaas.config=com.sun.Krb5LoginModule required;\n", "Krb5LoginModule"),
        (f"{SASL}sasl.mechanism=PLAIN\nsasl.jaas.config={PLAIN} {USER}\n", "semicolon"),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nsasl.password.file=x\n", "say the same thing"),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nssl.key.location=k.pem\n", "without its certificate"),
        (f"{SASL}{LOGIN}sasl.mechanism=OAUTHBEARER\n", "does not belong to sasl.mechanism OAUTHBEARER"),
        (f"{SASL}sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.client.id=c\n", f"OAUTHBEARER needs {TOKEN_URL}"),
        (f"{SASL}sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=default\n", "has oidc only"),
        (
            f"{SASL}sasl.mechanism=OAUTHBEARER\n{TOKEN_URL}=http://idp/t\nsasl.oauthbearer.client.id=c\n"
            "sasl.oauthbearer.client.secret=hush\n",
            "idp is to be asked by https",
        ),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nssl.endpoint.identification.algorithm=htps\n", "https, or none"),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nenable.ssl.certificate.verification=maybe\n", "true or false"),
        (f"{SASL}{LOGIN}sasl.mechanism=PLAIN\nsasl.client.callback.handler.class=com.aws.Iam\n", "about security"),
        ("bootstrap.servers=b:1\nsecurity.protocol=SSL\nssl.keystore.key=hush\n", "belong together"),
        ("bootstrap.servers=b:1\nssl.ca.location=C:\\keys\n", "line 2: a backslash"),
    ],
)
def test_what_cannot_be_is_refused_and_no_secret_is_told(config: Path, text: str, says: str) -> None:
    with pytest.raises(Refusal, match=says) as caught:
        security_of(config, text)
    assert caught.value.code is FailureCode.INVALID_SETTING
    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: No such file"), (b"a=\xff", "not UTF-8"), (b"#" * 1_000_001, "larger than")],
)
def test_a_file_that_is_none(config: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(Refusal, match=says):
        read({"KAFKA_CLIENT_CONFIG": str(config)})


def test_tuning_is_passed_over_and_named(config: Path) -> None:
    config.write_text("bootstrap.servers=b:1\nacks=all\nclient.id=x\nmax.poll.records=5\nschema.registry.url=x\n")
    found = read({"KAFKA_CLIENT_CONFIG": str(config)})
    assert found is not None
    assert found.ignored == ("acks", "client.id", "max.poll.records", "schema.registry.url")


def test_what_is_not_safe_is_said(config: Path) -> None:
    config.write_text(
        f"bootstrap.servers=127.0.0.1:1,far:2\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n{LOGIN}"
    )
    config.chmod(0o644)
    found = read({"KAFKA_CLIENT_CONFIG": str(config)})
    assert found is not None
    open_file, plain = found.warnings
    assert f"chmod 600 {config}" in open_file
    assert "far is another machine" in plain
    here = config.read_text().replace(",far:2", "")
    config.write_text(here)
    config.chmod(0o640)
    found = read({"KAFKA_CLIENT_CONFIG": str(config)})
    assert found is not None
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("ssl.endpoint.identification.algorithm=\n", "host with a certificate of that authority"),
        ("enable.ssl.certificate.verification=false\n", "anybody can pass for the brokers"),
    ],
)
def test_checks_that_are_off_are_said(config: Path, word: str, says: str) -> None:
    config.write_text(f"bootstrap.servers=b:1\nsecurity.protocol=SSL\n{word}")
    found = read({"KAFKA_CLIENT_CONFIG": str(config)})
    assert found is not None
    (warning,) = found.warnings
    assert says in warning


def test_a_secret_is_not_shown() -> None:
    secret = Secret("hush")
    login = PasswordLogin(mechanism="PLAIN", username="shop", password=secret)
    cluster = Cluster("b:1", Security(login=login))
    for shown in (repr(cluster), str(cluster), f"{secret}", repr(vars), str(secret), repr(copy.deepcopy(cluster))):
        assert "hush" not in shown
    with pytest.raises(TypeError, match="Encoding objects of type Secret"):
        msgspec.json.encode(cluster)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    assert secret == Secret("hush")
    assert secret != Secret("loud")


def test_a_secret_in_a_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old\r\n")
    secret = Secret.in_file(file)
    file.write_text("\ufeffnew")
    assert secret.reveal() == "new"
    for content in (b"", b"\xff", b"x" * 70_000):
        file.write_bytes(content)
        with pytest.raises(Refusal, match=str(file)):
            secret.reveal()
    file.unlink()
    with pytest.raises(Refusal, match="No such file"):
        secret.reveal()


def test_every_secret_has_a_variable() -> None:
    assert [variable(secret) for secret in SECRETS] == [
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SSL_KEY_PASSWORD",
        "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
    ]


def test_brokers_that_are_none_are_refused_by_where_they_stand(config: Path) -> None:
    config.write_text("bootstrap.servers=SASL_SSL://b:1\n")
    with pytest.raises(Refusal, match=r"bootstrap.servers in .* is 'SASL_SSL://b:1', .* is no broker"):
        Cluster.from_environ({"KAFKA_CLIENT_CONFIG": str(config)})
    with pytest.raises(Refusal, match="KAFKA_BOOTSTRAP_SERVERS is 'b', "):
        Cluster.from_environ({"KAFKA_BOOTSTRAP_SERVERS": "b"})
