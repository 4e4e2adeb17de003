"""`guideway.toml`: read where it is expected, behind the environment, and refused in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guideway import config
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder; the user's configuration is in `me` below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    (tmp_path / "me" / "guideway").mkdir(parents=True)
    return tmp_path


def loaded(folder: Path, **environ: str) -> dict[str, str]:
    environ = {"XDG_CONFIG_HOME": str(folder / "me"), **environ}
    config.load(environ)
    return {name: value for name, value in environ.items() if name != "XDG_CONFIG_HOME"}


def test_the_environment_goes_before_the_folder_and_that_before_the_user(folder: Path) -> None:
    assert loaded(folder) == {}
    (folder / "guideway.toml").write_text('kafka_bootstrap_servers = "a:1"\nlog_level = "debug"\nnative = false\n')
    (folder / "me/guideway/guideway.toml").write_text('log_level = "error"\nartefact_cache_bytes = 7\nhome = "mine"\n')
    assert loaded(folder, KAFKA_BOOTSTRAP_SERVERS="b:2", GUIDEWAY_LOG_FORMAT=" ") == {
        "KAFKA_BOOTSTRAP_SERVERS": "b:2",
        "GUIDEWAY_LOG_FORMAT": " ",
        "GUIDEWAY_LOG_LEVEL": "debug",
        "GUIDEWAY_NATIVE": "0",
        "GUIDEWAY_ARTEFACT_CACHE_BYTES": "7",
        "GUIDEWAY_HOME": str(folder / "me" / "guideway" / "mine"),
    }
    settings = Settings.from_environ(loaded(folder))
    assert (str(settings.cluster()), settings.artefact_cache_bytes) == ("a:1", 7)


def test_paths_are_relative_to_the_file_that_says_them(folder: Path) -> None:
    named = folder / "sub" / "other.toml"
    named.parent.mkdir()
    named.write_text('store = "artefacts"\nkafka_home = "~/kafka"\n', encoding="utf-8-sig")
    (folder / "guideway.toml").write_text('log_level = "debug"\n')
    found = loaded(folder, GUIDEWAY_CONFIG="sub/other.toml")
    assert found["GUIDEWAY_STORE"] == str(folder / "sub" / "artefacts")
    assert found["KAFKA_HOME"] == str(folder / "nobody" / "kafka")
    assert "GUIDEWAY_LOG_LEVEL" not in found, "the named one alone is read"
    named.write_text('store = "s3://bucket/x"\n')
    assert loaded(folder, GUIDEWAY_CONFIG=str(named))["GUIDEWAY_STORE"] == "s3://bucket/x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('stroe = "x"', "says 'stroe', which is no setting: did you mean store? it has kafka_bootstrap_servers, "),
        ('GUIDEWAY_STORE = "x"', "did you mean store?"),
        ('bootstrap_servers = "x"', "did you mean kafka_bootstrap_servers?"),
        ('[kafka]\nbootstrap = "x"', "says 'kafka', which is no setting"),
        ("store = 7", "says store = '7': give text in quotes"),
        ("[store]\na = 1", "give text in quotes"),
        ('artefact_cache_bytes = "10 GB"', "give a whole number"),
        ("artefact_cache_bytes = true", "give a whole number"),
        ('native = "no"', "give true or false"),
        ('log_level = "a\\u0000b"', "give text in quotes"),
        ("store = x", "is not TOML: "),
        ('store = "a"\nstore = "b"\n', "is not TOML: Cannot overwrite a value (at line 2, "),
        ("store = " + "[" * 5000, "nested too deeply"),
        ("#" * 1_000_001, "is larger than 1,000,000 bytes"),
        ('qdrant_api_key = "x"', "holds a secret (qdrant_api_key) and can be read by others: chmod 600 "),
    ],
)
def test_what_it_must_not_say_is_refused_by_file_and_key(folder: Path, text: str, says: str) -> None:
    file = folder / "guideway.toml"
    file.write_text(text)
    file.chmod(0o644)
    with pytest.raises(Refusal) as caught:
        loaded(folder)
    assert caught.value.code is FailureCode.INVALID_SETTING
    assert str(file) in caught.value.message
    assert says in caught.value.message


def test_a_secret_is_read_where_nobody_else_can_read_it(folder: Path) -> None:
    (folder / "guideway.toml").write_text('qdrant_api_key = "x"')
    (folder / "guideway.toml").chmod(0o600)
    assert loaded(folder) == {"GUIDEWAY_QDRANT_API_KEY": "x"}


@pytest.mark.parametrize("kind", ["folder", "bytes", "missing", "dangling"])
def test_what_cannot_be_read_is_refused(folder: Path, kind: str) -> None:
    file = folder / "guideway.toml"
    if kind == "folder":
        file.mkdir()
    elif kind == "bytes":
        file.write_bytes(b"store = '\xff'")
    elif kind == "dangling":
        file.symlink_to(folder / "nowhere")
    environ = {"GUIDEWAY_CONFIG": "gone.toml"} if kind == "missing" else {}
    with pytest.raises(Refusal, match=r"(Is a directory|is not UTF-8 \(byte 9\)|No such file)"):
        loaded(folder, **environ)


def test_anothers_file_in_the_present_folder_is_not_obeyed(folder: Path) -> None:
    (folder / "guideway.toml").write_text('store = "x"')
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(folder / "guideway.toml", 12345, 12345)
    with pytest.raises(Refusal, match="belongs to another user: if you trust it, name it in GUIDEWAY_CONFIG"):
        loaded(folder)
    assert "GUIDEWAY_STORE" in loaded(folder, GUIDEWAY_CONFIG="guideway.toml")


def test_a_misspelt_variable_is_found() -> None:
    theirs = {
        "GUIDEWAY_STROE": "x",
        "GUIDEWAY_STORE": "y",
        "KAFKA_BOOTSTRAP_SERVER": "a:1",
        "GUIDEWAY_SERVICE_HOST": "",
    }
    assert config.misspelt(theirs) == [
        "GUIDEWAY_STROE (did you mean GUIDEWAY_STORE?)",
        "KAFKA_BOOTSTRAP_SERVER (did you mean KAFKA_BOOTSTRAP_SERVERS?)",
    ]


def test_every_setting_can_be_in_the_file() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "settings.md").read_text("utf-8")
    listed = [line.split("|")[1:3] for line in rows.splitlines() if line.startswith("| `")]
    written = {variable.strip(" `"): key.strip(" `") for variable, key in listed}
    assert written.pop(config.VARIABLE) == "–"
    assert written == {one.variable: one.key for one in config.SETTINGS}


def test_a_command_heeds_it(folder: Path) -> None:
    (folder / "guideway.toml").write_text('kafka_bootstrap_servers = "nowhere"\n')
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    run = subprocess.run(
        [sys.executable, "-m", "guideway", "get"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert "KAFKA_BOOTSTRAP_SERVERS is 'nowhere'" in run.stderr
