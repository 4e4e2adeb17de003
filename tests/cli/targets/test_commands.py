"""`guideway targets secret` and `guideway archive`, on a folder: no cluster is needed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest
from standardwebhooks import Webhook as Verifier
from typer.testing import CliRunner, Result

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.archive.rows import Row, read
from guideway.catalogue.documents.manifest_files import Source
from guideway.cli import app
from guideway.producers.targets.webhooks.secret_files import MOST, SecretFiles
from guideway.producers.targets.webhooks.signing import signed_headers
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import Webhook
from guideway.settings import Settings
from guideway.usecases.targets.webhooks import egress_faults, unlisted

ROW = msgspec.json.Decoder(Row)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GUIDEWAY_STORE", "GUIDEWAY_SECRETS", "GUIDEWAY_EGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GUIDEWAY_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_secret_is_shown_once_and_both_sign_until_the_old_one_is_retired(home: Path) -> None:
    old, new = (json.loads(run("targets", "secret", "create", "shop", "crm", "--json").output)["secret"] for _ in "12")
    files = SecretFiles(home / "secrets")
    headers = signed_headers("msg_1", b"{}", files.read("shop", "crm"), 0)
    assert headers["webhook-signature"].count("v1,") == 2
    listed = run("targets", "secret", "list", "--json").output
    assert json.loads(listed) == {"namespace": "shop", "name": "crm", "versions": 2}
    assert old.removeprefix("whsec_") not in listed
    assert stat.S_IMODE((home / "secrets" / "shop.crm").stat().st_mode) == 0o600
    assert "1 retired" in run("targets", "secret", "retire", "shop", "crm").output
    assert len(files.read("shop", "crm")) == 1
    assert Verifier(new)._whsecret == files.read("shop", "crm")[0]


def test_no_more_secrets_than_a_header_should_have(home: Path) -> None:
    for _ in range(MOST):
        run("targets", "secret", "create", "shop", "crm")
    found = run("targets", "secret", "create", "shop", "crm")
    assert isinstance(found.exception, Refusal)
    assert "retire" in found.exception.message


@pytest.mark.parametrize("name", ["../x", "a.b", "A", ""])
def test_a_secret_of_another_folder_is_not_named(home: Path, name: str) -> None:
    found = run("targets", "secret", "create", name, "crm")
    assert isinstance(found.exception, Refusal)
    assert found.exception.code is FailureCode.INVALID_SETTING


def test_a_secret_that_is_none_is_refused_and_not_quoted(home: Path) -> None:
    (home / "secrets").mkdir()
    (home / "secrets" / "shop.crm").write_text("hunter2\n")
    with pytest.raises(Refusal, match="whsec_") as caught:
        SecretFiles(home / "secrets").read("shop", "crm")
    assert "hunter2" not in caught.value.message
    with pytest.raises(Refusal, match="there is no secret shop/other"):
        SecretFiles(home / "secrets").read("shop", "other")


def test_an_archive_is_listed_drawn_from_taken_out_and_erased(home: Path) -> None:
    rows = [
        Row(row=f"r{n}", id=f"id{n}", text=f"text {n}", value="glad", at_ms=1_767_225_600_000, endpoint_version=1)
        for n in range(9)
    ]
    rows.append(Row(row="bare", id="bare", value="sad", at_ms=1_767_225_600_000, endpoint_version=1))
    Archive(str(home / "store"), "shop", "mood").write(rows, "jsonl")
    (one,) = [json.loads(line) for line in run("archive", "list", "--json").output.splitlines()]
    assert (one["endpoint"], one["days"], one["first"]) == ("/shop/mood", 1, "2026-01-01")
    assert "/shop/mood" in run("archive", "list").output
    drawn = [json.loads(line)["id"] for line in run("archive", "sample", "/shop/mood", "-n", "3").output.splitlines()]
    assert len({*drawn}) == 3
    taken = [json.loads(line) for line in run("archive", "export", "/shop/mood", "--examples").output.splitlines()]
    assert sorted(map(str, taken)) == sorted(str({"text": f"text {n}", "label": "glad"}) for n in range(9))
    assert "1 erased" in run("archive", "erase", "/shop/mood", "id3").output
    assert "id3" not in run("archive", "export", "/shop/mood").output
    assert run("archive", "export", "/shop/mood", "--since", "2026-01-02").output == ""
    assert "no archives" in run("archive", "list", "desk").output


def test_an_archive_is_listed_by_day_and_written_whole_or_not_at_all(home: Path) -> None:
    day_ms = 86_400_000
    rows = [
        Row(row=f"r{n}", id=f"id{n}", text=f"t{n}" if n else None, at_ms=n // 3 * day_ms, endpoint_version=1)
        for n in range(5)
    ]
    store = Archive(str(home / "store"), "shop", "mood")
    store.write(rows, "jsonl")
    # Written again after a kill: it counts once.
    store.write(rows[:1], "jsonl")
    found = [json.loads(line) for line in run("archive", "list", "/shop/mood", "--json").output.splitlines()]
    assert [(one["day"], one["rows"], one["without_text"], one["objects"]) for one in found] == [
        ("1970-01-01", 3, 1, 2),
        ("1970-01-02", 2, 0, 1),
    ]
    assert "1970-01-02" in run("archive", "list", "/shop/mood").output
    drawn = [run("archive", "sample", "/shop/mood", "-n", "2", "--seed", "7").output for _ in "12"]
    assert drawn[0] == drawn[1]
    for name, form in (("all.jsonl", None), ("all.parquet", "parquet")):
        place = home / name
        assert "5 results in" in run("archive", "export", "/shop/mood", "-o", str(place)).output
        got = read(place.read_bytes(), "parquet") if form else map(ROW.decode, place.read_bytes().splitlines())
        assert sorted(got, key=lambda row: row.row) == rows
        again = run("archive", "export", "/shop/mood", "-o", str(place))
        assert isinstance(again.exception, Refusal)
        assert "exists" in again.exception.message
    assert sorted(one.name for one in home.iterdir()) == ["all.jsonl", "all.parquet", "store"]


def test_a_damaged_archive_leaves_no_file_that_looks_whole(home: Path) -> None:
    row = Row(row="r", id="id", at_ms=0, endpoint_version=1)
    store = Archive(str(home / "store"), "shop", "mood")
    store.write([row], "jsonl")
    (one,) = store.objects()
    Path(one.path).write_bytes(b"no gzip")
    found = run("archive", "export", "/shop/mood", "-o", str(home / "all.jsonl"))
    assert isinstance(found.exception, Refusal)
    assert "is damaged" in found.exception.message
    assert [one.name for one in home.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("archive", "sample", "mood"), "is no address"),
        (("archive", "export", "/a/b", "--since", "May"), "is no day"),
        (("archive", "export", "/a/b", "--since", "2026-02-30"), "is no day"),
        (("archive", "export", "/a/b", "-o", "rows.txt"), "neither .jsonl nor .parquet"),
        (("archive", "sample", "/a/b"), "holds no results of /a/b"),
        (("archive", "list", "/a/b"), "holds no results of /a/b"),
    ],
)
def test_what_is_no_endpoint_and_no_day_is_refused(arguments: tuple[str, ...], says: str) -> None:
    found = run(*arguments)
    assert isinstance(found.exception, Refusal)
    assert says in found.exception.message


@pytest.mark.parametrize(
    ("egress", "url", "refused", "told"),
    [
        ("", "https://a.example/", False, False),
        ("", "http://a.example/", True, False),
        ("a.example", "http://a.example/", True, True),
        ("http://a.example", "http://a.example/", False, False),
        ("b.example", "https://a.example/", False, True),
    ],
)
def test_apply_says_what_this_machine_knows_of_the_list(
    home: Path, egress: str, url: str, refused: bool, told: bool
) -> None:
    settings = Settings(home=home, store=str(home), egress=egress)
    sources = [Source(home, Webhook(namespace="shop", name="crm", url=url, secret="crm"))]
    assert bool([*egress_faults(settings, sources)]) is refused
    assert bool([*unlisted(settings, sources)]) is told
