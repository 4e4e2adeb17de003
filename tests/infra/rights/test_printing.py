"""A setup as other tools take it."""

from __future__ import annotations

import shlex

import pytest
import yaml

from guideway.infra.rights.as_commands import as_commands
from guideway.infra.rights.as_strimzi import as_strimzi
from guideway.infra.rights.as_terraform import as_terraform
from guideway.infra.rights.right import Right
from guideway.infra.rights.setup import Quota, Setup
from guideway.infra.topics import TopicDefinition
from guideway.schemas.failures import Refusal

SETUP = Setup(
    topics=(TopicDefinition("gw.shop.catalogue.v1", 1, {"cleanup.policy": "compact"}),),
    rights=(
        Right("User:shop", "group", "prefix", "shop.", "read"),
        Right("User:shop", "topic", "literal", "gw.shop.call.v1", "read"),
        Right("User:shop", "topic", "literal", "gw.shop.call.v1", "write"),
        Right("User:gw-steward", "cluster", "literal", "kafka-cluster", "alter configs"),
    ),
    quotas={"User:shop": Quota(1e6, None, 12.5, None)},
)

COMMANDS = """\
# Set BOOTSTRAP, and PROPERTIES to a file that logs in as an administrator. Each line may be run again.
ADMIN="--bootstrap-server $BOOTSTRAP --command-config $PROPERTIES"

kafka-topics.sh $ADMIN --create --if-not-exists --topic gw.shop.catalogue.v1 --partitions 1 --replication-factor 3 --config cleanup.policy=compact --config max.message.bytes=8388608 --config min.insync.replicas=2
kafka-acls.sh $ADMIN --add --allow-principal User:shop --operation Read --group shop. --resource-pattern-type prefixed
kafka-acls.sh $ADMIN --add --allow-principal User:shop --operation Read --operation Write --topic gw.shop.call.v1
kafka-acls.sh $ADMIN --add --allow-principal User:gw-steward --operation AlterConfigs --cluster
kafka-configs.sh $ADMIN --alter --entity-type users --entity-name shop --add-config 'producer_byte_rate=1000000,request_percentage=12.5'
"""  # noqa: E501 - a line of a shell

STRIMZI = """\
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata:
  name: gw.shop.catalogue.v1
  labels: {strimzi.io/cluster: kafka}
spec:
  topicName: gw.shop.catalogue.v1
  partitions: 1
  replicas: 1
  config: {cleanup.policy: compact, max.message.bytes: "8388608"}
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaUser
metadata:
  name: shop
  labels: {strimzi.io/cluster: kafka}
spec:
  authentication: {type: scram-sha-512}
  authorization:
    type: simple
    acls:
      - {resource: {type: group, name: shop., patternType: prefix}, operations: [Read]}
      - {resource: {type: topic, name: gw.shop.call.v1, patternType: literal}, operations: [Read, Write]}
  quotas: {producerByteRate: 1000000, requestPercentage: 12}
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaUser
metadata:
  name: gw-steward
  labels: {strimzi.io/cluster: kafka}
spec:
  authentication: {type: scram-sha-512}
  authorization:
    type: simple
    acls:
      - {resource: {type: cluster}, operations: [AlterConfigs]}
"""

TERRAFORM = """\
terraform {
  required_providers {
    kafka = { source = "Mongey/kafka" }
  }
}

resource "kafka_topic" "gw_shop_catalogue_v1" {
  name               = "gw.shop.catalogue.v1"
  partitions         = 1
  replication_factor = 3
  config = {
    "cleanup.policy"      = "compact"
    "max.message.bytes"   = "8388608"
    "min.insync.replicas" = "2"
  }
}

resource "kafka_acl" "User_3a_shop__read__group__prefix__shop_" {
  resource_name                = "shop."
  resource_type                = "Group"
  resource_pattern_type_filter = "Prefixed"
  acl_principal                = "User:shop"
  acl_host                     = "*"
  acl_operation                = "Read"
  acl_permission_type          = "Allow"
}

resource "kafka_acl" "User_3a_shop__read__topic__literal__gw_shop_call_v1" {
  resource_name                = "gw.shop.call.v1"
  resource_type                = "Topic"
  resource_pattern_type_filter = "Literal"
  acl_principal                = "User:shop"
  acl_host                     = "*"
  acl_operation                = "Read"
  acl_permission_type          = "Allow"
}

resource "kafka_acl" "User_3a_shop__write__topic__literal__gw_shop_call_v1" {
  resource_name                = "gw.shop.call.v1"
  resource_type                = "Topic"
  resource_pattern_type_filter = "Literal"
  acl_principal                = "User:shop"
  acl_host                     = "*"
  acl_operation                = "Write"
  acl_permission_type          = "Allow"
}

resource "kafka_acl" "User_3a_gw-steward__alter_20_configs__cluster__literal__kafka-cluster" {
  resource_name                = "kafka-cluster"
  resource_type                = "Cluster"
  resource_pattern_type_filter = "Literal"
  acl_principal                = "User:gw-steward"
  acl_host                     = "*"
  acl_operation                = "AlterConfigs"
  acl_permission_type          = "Allow"
}

resource "kafka_quota" "shop" {
  entity_name = "shop"
  entity_type = "user"
  config = {
    "producer_byte_rate" = "1000000"
    "request_percentage" = "12.5"
  }
}
"""


def test_as_commands() -> None:
    assert as_commands(SETUP, 3) == COMMANDS


def test_as_strimzi() -> None:
    text = as_strimzi(SETUP, 1, "kafka")
    assert text == STRIMZI
    topic, user, steward = yaml.safe_load_all(text)
    assert topic["spec"]["config"] == {"cleanup.policy": "compact", "max.message.bytes": "8388608"}
    assert user["spec"]["authorization"]["acls"][1]["operations"] == ["Read", "Write"]
    assert steward["spec"]["authorization"]["acls"] == [
        {"resource": {"type": "cluster"}, "operations": ["AlterConfigs"]}
    ]


def test_as_terraform() -> None:
    assert as_terraform(SETUP, 3) == TERRAFORM


def test_a_principal_with_blanks_and_quotes_stays_one_word() -> None:
    name = "User:CN=A 'b' $(reboot),O=\"${x}\""
    setup = Setup((), (Right(name, "topic", "literal", "gw.t.call.v1", "write"),), {name: Quota()})
    line = next(line for line in as_commands(setup, 1).splitlines() if line.startswith("kafka-acls"))
    assert name in shlex.split(line)
    assert '$${x}\\"' in as_terraform(setup, 1)
    with pytest.raises(Refusal, match="Strimzi"):
        as_strimzi(setup, 1)


def test_no_two_rights_have_one_name_in_terraform() -> None:
    rights = tuple(
        Right(principal, "topic", "literal", topic, "read")
        for principal in ("User:a.b", "User:a_b", "User:a b", "User:a-b")
        for topic in ("gw.t1.call.v1", "gw.t-1.call.v1", "gw.t10.call.v1")
    )
    heads = [line for line in as_terraform(Setup((), rights, {}), 1).splitlines() if line.startswith("resource")]
    assert len(set(heads)) == len(rights)
