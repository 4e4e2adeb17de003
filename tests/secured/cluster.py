"""Apache Kafka as a company runs it: SASL_SSL, SCRAM-SHA-512, the standard authorizer, everything denied by default.

    with SecuredCluster.up(folder) as secured:
        secured.allow("team-a", "write", topic="gw.a.task.in.v1")
        environ = secured.environ("team-a")              # for our processes: KAFKA_CLIENT_CONFIG and the brokers
        AIOKafkaProducer(**secured.aiokafka("team-a"))
        confluent_kafka.Producer(secured.librdkafka("team-a"))
        secured.tool("acls", "--list")                   # Kafka's own tools, as admin

Clients reach the brokers at two addresses: `brokers` (SASL_SSL; SCRAM-SHA-256, SCRAM-SHA-512, PLAIN) and, where there
is one broker only, `certificate_brokers` (SSL; the principal is the CN of the client's certificate). A third address,
PLAINTEXT, is for the brokers among themselves and for what a test prepares; no client is told of it.
"""

from __future__ import annotations

import itertools
import os
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from tests.faults.kafka.cluster import NO_KAFKA, KafkaCluster, steady_ports
from tests.faults.kafka.proxy import Tls

from guideway.infra import apache_kafka
from guideway.infra.processes import HOST

from .certificates import NO_OPENSSL, Authority, have_openssl

ROOT: Final = Path(__file__).resolve().parents[2]
ADMIN: Final = "admin"
SERVICES: Final = ("gw-endpoints", "gw-worker", "gw-trainer", "gw-targets", "gw-steward", "gw-gateway", "gw-batcher")
TEAMS: Final = ("team-a", "team-b", "outsider")
"""`team-a` is to own the namespace `a`, `team-b` the namespace `b`; `outsider` can log in and has no right."""
PRINCIPALS: Final = (ADMIN, *SERVICES, *TEAMS)

Mechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]

EVERY_RIGHT: Final = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)
_TOOLS: Final = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "configs": "kafka.admin.ConfigCommand",
    "acls": "org.apache.kafka.tools.AclCommand",
}


def password(principal: str) -> str:
    """The password of a principal that the cluster was made with."""
    return f"{principal}-secret"


@dataclass
class SecuredCluster:
    """A running secured cluster. Its principals are those of PRINCIPALS and those that a test adds."""

    folder: Path
    authority: Authority
    kafka: KafkaCluster
    _certificate_port: int
    _passwords: dict[str, str] = field(default_factory=lambda: {one: password(one) for one in PRINCIPALS})
    _files: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def up(
        cls,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        brokers: int = 1,
        advertise: Mapping[int, int] | None = None,
        quick: bool = True,
    ) -> Iterator[SecuredCluster]:
        """A cluster in an empty folder, ended on exit. `settings` are broker properties beside or instead of ours.
        `advertise` and `quick` are as in `KafkaCluster.up`.

        Raises Refusal as `KafkaCluster.up` does.
        """
        authority = Authority.made(folder / "certificates")
        (port,) = steady_ports(1)
        wanted = {**security(authority), **(settings or {})}
        # More brokers than one would each need a port of their own here.
        listener = f"CERTIFICATES://{HOST}:{port}" if brokers == 1 else ""
        with KafkaCluster.up(
            folder / "kafka",
            brokers,
            wanted,
            advertise=advertise,
            format_options=scram_users(),
            listener=listener,
            quick=quick,
        ) as kafka:
            (folder / "clients").mkdir()
            yield cls(folder, authority, kafka, port)

    @property
    def brokers(self) -> str:
        """Where clients log in by SASL, as `host:port`."""
        return self.kafka.cluster.brokers

    @property
    def certificate_brokers(self) -> str:
        """Where clients log in by a certificate of `authority`, as `host:port`."""
        return f"{HOST}:{self._certificate_port}"

    def client_properties(
        self, principal: str, *, mechanism: Mechanism = "SCRAM-SHA-512", jaas: bool = False, **instead: str | None
    ) -> Path:
        """A file that logs a client in as `principal`, in the words of librdkafka, or with Java's `sasl.jaas.config`.

        instead: other properties, with `_` for `.`; None leaves one out. It has the brokers too.
        """
        module = "plain.PlainLoginModule" if mechanism == "PLAIN" else "scram.ScramLoginModule"
        if jaas:
            login = {
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.certificate),
                "sasl.jaas.config": f"org.apache.kafka.common.security.{module} required "
                f'username="{principal}" password="{self._passwords[principal]}";',
            }
        else:
            login = {
                "ssl.ca.location": str(self.authority.certificate),
                "sasl.username": principal,
                "sasl.password": self._passwords[principal],
            }
        values: dict[str, str | None] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            **login,
            **{name.replace("_", "."): value for name, value in instead.items()},
        }
        file = self.folder / "clients" / f"{next(self._files)}-{principal}.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items() if value is not None))
        file.chmod(0o600)
        return file

    def environ(self, principal: str) -> dict[str, str]:
        """Our environment, changed so that processes of guideway log in as `principal`."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        return ours | {"KAFKA_CLIENT_CONFIG": str(self.client_properties(principal))}

    def environ_at_home(self, principal: str, folder: Path) -> dict[str, str]:
        """The same with a home of its own in `folder`, where all principals share one store. No hub is asked."""
        home = folder / principal
        if not home.is_dir():
            home.mkdir()
            # Converting the model takes half a minute: all share the outcome.
            models = ROOT / ".guideway" / "models"
            models.mkdir(parents=True, exist_ok=True)
            (home / "models").symlink_to(models)
        return self.environ(principal) | {
            "GUIDEWAY_HOME": str(home),
            "GUIDEWAY_STORE": str(folder / "store"),
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "HF_HUB_OFFLINE": "1",
        }

    def proxy_tls(self) -> Tls:
        """For a proxy in front of the brokers."""
        shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        shown.load_cert_chain(self.authority.issue("proxy").both)
        return Tls(shown, ssl.create_default_context(cafile=str(self.authority.certificate)))

    def aiokafka(self, principal: str) -> dict[str, Any]:
        """The arguments of aiokafka's own clients."""
        return {
            "bootstrap_servers": self.brokers,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": principal,
            "sasl_plain_password": self._passwords[principal],
            "ssl_context": ssl.create_default_context(cafile=str(self.authority.certificate)),
        }

    def librdkafka(self, principal: str) -> dict[str, Any]:
        """The settings of confluent_kafka's clients."""
        return {
            "bootstrap.servers": self.brokers,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": principal,
            "sasl.password": self._passwords[principal],
            "ssl.ca.location": str(self.authority.certificate),
            # Refusals are what tests ask for: librdkafka would write each to stderr.
            "log_level": 0,
        }

    @cached_property
    def admin(self) -> AdminClient:
        """librdkafka's administrator, as a super user, past the login."""
        return AdminClient({"bootstrap.servers": self.kafka.internal.brokers})

    def add_principal(self, name: str, secret: str = "") -> str:
        """A further principal, or a new password for one that is there. Returns its name. It has no right yet."""
        self._passwords[name] = secret or password(name)
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            upsertion = UserScramCredentialUpsertion(
                name, ScramCredentialInfo(mechanism, 4096), self._passwords[name].encode(), os.urandom(16)
            )
            # Kafka takes one of a principal at a time.
            for done in self.admin.alter_user_scram_credentials([upsertion]).values():
                done.result(30)
        return name

    def allow(
        self, principal: str, *operations: str, topic: str = "", group: str = "", transaction: str = "", whole: str = ""
    ) -> None:
        """Give rights, such as `allow("team-a", "read", "describe", topic="gw.a.task.out.v1")`.

        The resource has this very name. For one that begins with it, write `*` behind it; `*` alone is every one.
        whole: `cluster` for rights on the cluster itself.
        """
        kind, name = next(
            (kind, name)
            for kind, name in (
                (ResourceType.TOPIC, topic),
                (ResourceType.GROUP, group),
                (ResourceType.TRANSACTIONAL_ID, transaction),
                (ResourceType.BROKER, "kafka-cluster" if whole else ""),
            )
            if name
        )
        prefixed = name.endswith("*") and name != "*"
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        bindings = [
            AclBinding(
                kind,
                name.removesuffix("*") if prefixed else name,
                pattern,
                f"User:{principal}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        for done in self.admin.create_acls(bindings).values():
            done.result(30)
        self.until_rights_count(bindings)

    def until_rights_count(self, bindings: Iterable[AclBinding] = (), *, least: int = 0) -> None:
        """Wait until these rights, and at least so many, count: brokers learn of new ones within a second or two."""
        wanted, deadline = set(bindings), time.monotonic() + 30
        while not (wanted <= (held := set(self.admin.describe_acls(EVERY_RIGHT).result(30))) and len(held) >= least):
            assert time.monotonic() < deadline, f"no right yet: {wanted - held}"
            time.sleep(0.05)

    def tool(self, name: str, *arguments: str, principal: str = ADMIN) -> subprocess.CompletedProcess[str]:
        """One of Kafka's own tools (topics, groups, configs, acls) as `principal`. Each takes a second or two."""
        program = [
            *(apache_kafka.java(os.environ), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
            *("-cp", f"{self.kafka.home / 'libs'}/*", _TOOLS[name], "--bootstrap-server", self.brokers),
            *("--command-config", str(self.client_properties(principal, jaas=True)), *arguments),
        ]
        return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def security(authority: Authority) -> dict[str, str]:
    """The broker properties by which clients have to log in and have no right unless they were given it."""
    server = authority.issue("broker")
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    users = " ".join(f'user_{one}="{password(one)}"' for one in PRINCIPALS)
    return {
        "listener.security.protocol.map": ("CLIENT:SASL_SSL,CERTIFICATES:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        "listener.name.certificates.ssl.client.auth": "required",
        "listener.name.certificates.ssl.principal.mapping.rules": "RULE:^.*?CN=([^,]+).*$/$1/",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
        "listener.name.client.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.client.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        # ANONYMOUS is whoever comes by INTERNAL: the brokers themselves.
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
    }


def scram_users(principals: Sequence[str] = PRINCIPALS) -> tuple[str, ...]:
    """The options of `kafka-storage format` by which the principals are there when the cluster starts."""
    return tuple(
        word
        for one in principals
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for word in ("--add-scram", f"{mechanism}=[name={one},password={password(one)}]")
    )


@contextmanager
def secured_cluster(folder: Path) -> Iterator[SecuredCluster]:
    """A cluster for tests; they are skipped where it cannot be started."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(NO_KAFKA)
    if not have_openssl():
        pytest.skip(NO_OPENSSL)
    with SecuredCluster.up(folder) as cluster:
        yield cluster
