"""Where a machine keeps things, and what is said of every setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guideway.cli.demo.demo import agree
from guideway.delivery.connection.reading import VARIABLES
from guideway.schemas.failures import Refusal
from guideway.settings import Settings, home

ROOT = Path(__file__).parents[2]
SETTING = re.compile(r"\b(?:GUIDEWAY|KAFKA)_[A-Z_]+\b")
OURS = ("schemas", "catalogue", "delivery", "producers", "workers", "training", "infra", "src/guideway")


def test_the_folder_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert home({}) == tmp_path / "me" / ".local" / "share" / "guideway"
    assert home({"XDG_DATA_HOME": "/data"}) == Path("/data/guideway")
    assert home({"XDG_DATA_HOME": "relative"}) == tmp_path / "me" / ".local" / "share" / "guideway"
    assert home({"GUIDEWAY_HOME": "mine"}) == tmp_path / "mine"
    (tmp_path / ".guideway").mkdir()
    assert home({"XDG_DATA_HOME": "/data"}) == tmp_path / ".guideway"
    assert home({"GUIDEWAY_HOME": "mine"}) == tmp_path / "mine"


def test_every_setting_of_the_environment_is_in_the_table() -> None:
    used = {
        name
        for folder in OURS
        for file in (ROOT / folder).rglob("*.py")
        for name in SETTING.findall(file.read_text("utf-8"))
    }
    # Those of the connection are made of a client's words.
    used |= set(VARIABLES)
    rows = (ROOT / "docs" / "settings.md").read_text("utf-8")
    listed = {
        name for line in rows.splitlines() if line.startswith("| `") for name in SETTING.findall(line.split("|")[1])
    }
    assert used == listed


def test_the_demo_writes_to_no_cluster_unasked(tmp_path: Path) -> None:
    theirs = Settings.from_environ({"GUIDEWAY_HOME": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": "theirs:9092"})
    with pytest.raises(Refusal, match="unset KAFKA_BOOTSTRAP_SERVERS for a broker of its own, or say --yes"):
        agree(theirs, yes=False)
    agree(theirs, yes=True)
    agree(Settings.from_environ({"GUIDEWAY_HOME": str(tmp_path)}), yes=False)
