"""`guideway apply --dry-run`, `diff`, `describe` and `get --yaml` on a real broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.topic import CatalogueFollower
from guideway.cli import app
from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FILE = """
kind: endpoint/v1
namespace: NAME
name: mood
model_size: NAME
instruction: |
  Is it kind?
  Answer no, or yes.
input: {fields: {text: {}, unused: {required: false}}}
output: {type: choice, labels: ["no", "1"]}
---
kind: guidance/v1
namespace: NAME
name: tone
form: text_prompt
text: Be kind.
---
kind: model/v1
namespace: public
name: NAME
source: folder
fingerprint: sha256:0000000000000000000000000000000000000000000000000000000000000000
"""


class Shell:
    def __init__(self, broker: RunningBroker, folder: Path, name: str) -> None:
        self.environ = {"KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers, "GUIDEWAY_HOME": str(folder / "home")}
        self.cluster = broker.cluster
        self.file = folder / "a.yaml"
        self.file.write_text(FILE.replace("NAME", name))

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin, env=self.environ)

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]

    def change(self, before: str, after: str) -> None:
        assert before in self.file.read_text()
        self.file.write_text(self.file.read_text().replace(before, after))

    async def topics(self) -> set[str]:
        async with make_consumer(self.cluster, "test") as consumer:
            return set(await consumer.topics())


@pytest.fixture
def shell(broker: RunningBroker, tmp_path: Path, unique_name: str) -> Shell:
    return Shell(broker, tmp_path, unique_name)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(shell: Shell, unique_name: str) -> None:
    before = asyncio.run(shell.topics())
    said = shell.rows("apply", "--dry-run", "-f", str(shell.file))
    doubt = {
        "what": f"endpoint /{unique_name}/mood",
        "doubtful": "input.fields.unused is not used: nothing reads it",
        "file": str(shell.file),
        "line": 9,
        "field": "input.fields.unused",
    }
    kinds = [f"endpoint {unique_name}/mood", f"guidance {unique_name}/tone", f"model public/{unique_name}"]
    assert said[:3] == [{"what": one, "version": 1, "action": "created", "dry_run": True} for one in kinds]
    assert {one["what"] for one in said[3:-1]} >= {f"topic gw.{unique_name}.mood.in.v1"}
    assert said[-1] == doubt
    assert asyncio.run(shell.topics()) == before
    shown = shell("apply", "--dry-run", "-f", str(shell.file))
    assert shown.exit_code == 0
    assert "would be created" in shown.stdout
    assert "nothing was written (--dry-run)" in shown.stdout
    assert f"doubtful: {shell.file}:9: endpoint /{unique_name}/mood: input.fields.unused is not used" in shown.stderr

    done = shell.rows("apply", "-f", str(shell.file))
    assert done == [{"what": one, "version": 1, "action": "created"} for one in kinds] + [doubt]
    shell.change("Be kind.", "Be very kind.")
    again = shell.rows("apply", "--dry-run", "-f", str(shell.file))
    assert [(one["version"], one["action"]) for one in again[:-1]] == [
        (1, "unchanged"),
        (2, "updated"),
        (1, "unchanged"),
    ]
    assert "version 1 (all: 1)" in shell("describe", "guidance", f"{unique_name}/tone").stdout


def test_what_there_is_to_say_is_said_before_and_when_it_is_done(shell: Shell, unique_name: str) -> None:
    assert shell("apply", "-f", str(shell.file)).exit_code == 0
    smaller = shell.file.with_name("smaller.yaml")
    smaller.write_text(f"{shell.file.read_text().rpartition('---')[2]}max_context_tokens: 64\n")
    says = f"endpoint {unique_name}/mood does not fit with this any more: generation.max_tokens is 64"
    for command in (["apply", "--dry-run"], ["diff"], ["apply"]):
        told = shell(*command, "-f", str(smaller))
        assert told.exit_code == (command == ["diff"])
        assert says in " ".join(told.stderr.split())
    # Other tests apply all that this broker has.
    assert shell("apply", "-f", str(shell.file)).exit_code == 0


def test_diff_says_what_would_be_other_and_tells_it_by_its_exit_code(shell: Shell, unique_name: str) -> None:
    new = shell("diff", "-f", str(shell.file))
    assert new.exit_code == 1
    assert f"--- nothing\n+++ endpoint {unique_name}/mood@1\n@@ -0,0 +1," in new.stdout
    assert "\x1b" not in new.stdout, "no colours where no terminal is"
    assert shell("apply", "-f", str(shell.file)).exit_code == 0
    same = shell("diff", "-f", str(shell.file))
    assert (same.exit_code, same.stdout) == (0, "")
    shell.change("Answer no, or yes.", "Answer no or yes.")
    other = shell("diff", "-f", str(shell.file))
    assert other.exit_code == 1
    assert other.stdout.splitlines()[:2] == [
        f"--- endpoint {unique_name}/mood@1",
        f"+++ endpoint {unique_name}/mood@2",
    ]
    assert "\n-  Answer no, or yes.\n+  Answer no or yes.\n" in other.stdout
    for broken in ("kind: endpoint/v1", "a: ["):
        shell.file.write_text(broken)
        refused = shell("diff", "-f", str(shell.file))
        assert refused.exit_code == 2
        assert f"{shell.file}:1: " in refused.stderr
    shell.environ["KAFKA_BOOTSTRAP_SERVERS"] = "nonsense"
    assert shell("diff", "-f", str(EXAMPLES / "demo" / "manifests")).exit_code == 2


def test_what_is_shown_is_applied_again_and_changes_nothing(shell: Shell, unique_name: str) -> None:
    folder = EXAMPLES / "demo" / "manifests"
    assert shell("apply", "-f", str(folder)).exit_code == 0
    assert shell("apply", "-f", str(shell.file)).exit_code == 0
    everything = shell("get", "--yaml").stdout
    assert everything.count("\n---\n") >= 20
    for text in (
        everything,
        shell("describe", "endpoint", f"{unique_name}/mood").stdout,
        shell("describe", "guidance", "reviews/review-lora").stdout,
        shell("describe", "model", unique_name).stdout,
    ):
        applied = shell("apply", "-f", "-", "--json", stdin=text)
        assert applied.exit_code == 0
        assert {json.loads(line).get("action") for line in applied.stdout.splitlines()} <= {"unchanged", None}


def test_too_many_partitions_are_told_by_their_line(shell: Shell, unique_name: str) -> None:
    shell.change("instruction: |", "partitions: 1000\ninstruction: |")
    for arguments in (["apply"], ["apply", "--dry-run"]):
        found = shell(*arguments, "-f", str(shell.file)).exception
        assert isinstance(found, Faulty)
        assert found.code is FailureCode.INVALID_SETTING
        assert found.message.startswith(
            f"{shell.file}:6: endpoint /{unique_name}/mood: the topic gw.{unique_name}.mood.in"
        )


def test_one_that_is_refused_among_thirty_keeps_all_of_them_out(shell: Shell, unique_name: str) -> None:
    folder = shell.file.with_name("thirty")
    folder.mkdir()
    model = f"kind: model/v1\nnamespace: public\nname: {unique_name}\nsource: folder\nfingerprint: sha256:{'0' * 64}\n"
    endpoint = f"kind: endpoint/v1\nnamespace: {unique_name}\nmodel_size: {unique_name}\noutput: {{type: text}}\n"
    (folder / "model.yaml").write_text(model)
    for number in range(29):
        (folder / f"{number:02}.yaml").write_text(f"{endpoint}name: e{number}\n")
    (folder / "11.yaml").write_text(f"{endpoint}name: e11\nguidance:\n- {unique_name}/tnoe\n")
    (folder / "17.yaml").write_text(f"{endpoint}name: e17\ntargets: [nobody]\n")
    (folder / "tone.yaml").write_text(
        f"kind: guidance/v1\nnamespace: {unique_name}\nname: tone\nform: text_prompt\ntext: Be kind."
    )
    asyncio.run(_make_catalogue(shell.cluster))
    before = asyncio.run(shell.topics())
    refused = shell("apply", "-f", str(folder))
    assert refused.exit_code == 1
    assert isinstance(refused.exception, Faulty)
    first, second = refused.exception.faults
    assert str(first).startswith(
        f"{folder}/11.yaml:7: endpoint /{unique_name}/e11: there is no guidance {unique_name}/tnoe"
    )
    assert f"did you mean {unique_name}/tone?" in first.message
    assert str(second).startswith(f"{folder}/17.yaml:6: endpoint /{unique_name}/e17: there is no endpoint")
    assert asyncio.run(shell.topics()) == before
    assert asyncio.run(_kept(shell.cluster, unique_name)) == 0
    (folder / "11.yaml").unlink()
    (folder / "17.yaml").unlink()
    assert shell("apply", "-f", str(folder)).exit_code == 0
    assert asyncio.run(_kept(shell.cluster, unique_name)) == 29


async def _make_catalogue(cluster: Cluster) -> None:
    await make_topics(cluster, topics.wanted([]))


async def _kept(cluster: Cluster, name: str) -> int:
    async with CatalogueFollower(cluster) as reader:
        return sum(name in (one.namespace, one.name) for _, one in reader.catalogue)


def test_what_is_wrong_with_folders_is_told_beside_the_rest_and_without_a_broker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon", "alibi": True}))
    (tmp_path / "a.yaml").write_text(
        "kind: guidance/v1\nnamespace: team\nname: tone\nform: lora\n"
        f"model_fingerprint: sha256:{'0' * 64}\nartefact: ./nowhere\n"
        "---\nkind: endpoint/v1\nnamespace: team\nname: mood\nmodel_size: small\n"
        'output: {type: text}\ninput:\n  template: "{txet}"\n'
        f"---\nkind: model/v1\nnamespace: public\nname: small\nsource: {tmp_path}\n"
    )
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "nowhere:1", "GUIDEWAY_HOME": str(tmp_path / "home")}
    found = CliRunner().invoke(app, ["apply", "-f", str(tmp_path)], env=environ).exception
    assert isinstance(found, Faulty)
    assert [(one.line, one.field) for one in found.faults] == [(14, "input.template"), (6, "artefact"), (19, "source")]
    assert "did you mean 'text'?" in found.faults[0].message
    assert {one.code for one in found.faults} >= {FailureCode.INVALID_MANIFEST, FailureCode.UNSUPPORTED_MODEL}
    assert isinstance(found, Refusal)
