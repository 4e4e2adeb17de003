"""A run on what an endpoint's archive holds: its rows are frozen, and nothing that stands in them is in its folder."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.archive.rows import row_of
from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.producers.targets.archiving import Archiving
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.kinds.targets import ArchiveRule
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Choice
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.services.leaving import Result
from guideway.settings import Settings
from guideway.training.runs.begin import Begun
from guideway.training.runs.events import RunEnded
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows, Data
from guideway.usecases.studio import archive_rows, run_studio
from guideway.usecases.studio.publish import folder_of

LABELS = Choice(labels=["good", "bad"])
DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 10**6
RULE = ArchiveRule(retention_days=90)


def endpoint(**fields: Any) -> Endpoint:
    plain = Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS, archive=RULE)
    return msgspec.structs.replace(plain, **fields)


def catalogue(*versions: Endpoint) -> Catalogue:
    made = Catalogue()
    manifests: list[Manifest] = [Model(namespace="public", name="small", source="/models/small"), *versions]
    for manifest in manifests:
        for record in catalogue_records(plan_changes(made, [manifest])):
            made.absorb(*record)
    return made


def answered(number: int, *, days_ago: int = 1, text: str | None = "", value: Any = "") -> tuple[Result, Record]:
    """A result as workers publish it for the archive, and the record that it was read from."""
    value = LABELS.labels[number % 2] if value == "" else value
    at_ms = NOW_MS - days_ago * DAY_MS + number
    reply = Completed(
        id=f"id{number}",
        namespace="shop",
        endpoint="mood",
        endpoint_version=1,
        samples=[Sample(value=value, text=str(value), finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:0",
    )
    told = f"secret text {number}" if text == "" else text
    result = Result(reply=reply, id=reply.id, endpoint="mood", endpoint_version=1, completed=True, text=told)
    record = Record(
        topic="gw.shop.results.v1",
        partition=0,
        offset=number,
        key=None,
        value=b"",
        headers=(),
        timestamp_ms=at_ms,
    )
    return result, record


class Shop:
    """One team's machine: a store, a catalogue, a folder with its tasks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "tasks"
        self.folder.mkdir()
        self.settings = Settings.from_environ(
            {"GUIDEWAY_HOME": str(folder / "home"), "GUIDEWAY_STORE": str(folder / "store")}
        )
        self.catalogue = catalogue(endpoint())

        async def catalogue_of(_: Settings) -> Catalogue:
            return self.catalogue

        for module in (archive_rows, run_studio):
            monkeypatch.setattr(module, "catalogue_of", catalogue_of)

    @property
    def archive(self) -> Archive:
        return Archive(self.settings.store, "shop", "mood")

    def archived(self, *results: tuple[Result, Record]) -> None:
        """Write them as `guideway targets` does."""

        async def write() -> None:
            async with Archiving(self.settings.store, lambda *_: RULE, gather_s=0.01) as archiving:
                rows = [row_of(result, record) for result, record in results]
                await asyncio.gather(*(archiving.add("shop", "mood", RULE, row) for row in rows))

        asyncio.run(write())

    def task(self, archive: str | ArchivedRows = "/shop/mood", **fields: Any) -> Task:
        data: dict[str, Any] = {"eval": fields.pop("eval")} if "eval" in fields else {"folds": 0}
        plain = Task(
            namespace="shop",
            endpoint="mood",
            model_sizes=["small"],
            data=Data(archive=archive, **data),
            output=LABELS,
        )
        return msgspec.structs.replace(plain, **fields)

    def begun(self, task: Task, out: Path | None = None) -> Begun:
        return asyncio.run(run_studio.prepare(self.settings, task, self.folder, out=out)).begun

    def refused(self, task: Task, out: Path | None = None) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.begun(task, out)
        return caught.value


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


def texts(begun: Begun) -> list[tuple[int, str, str]]:
    lists = (begun.examples.train, begun.examples.validation, begun.examples.eval)
    return sorted((row.number, row.text, row.answer) for some in lists for row in some)


def end(begun: Begun) -> None:
    begun.folder.append(RunEnded(at=0))


def test_a_run_goes_on_with_the_rows_it_began_with(shop: Shop) -> None:
    shop.archived(*(answered(number, days_ago=1 + number % 3) for number in range(40)))
    first = shop.begun(shop.task())
    assert len(texts(first)) == 40
    # The endpoint goes on answering, and its archive grows; so does the number of objects that hold the same rows.
    shop.archived(*(answered(number) for number in range(30, 90)))
    again = shop.begun(shop.task())
    assert (again.folder.path, again.run, texts(again)) == (first.folder.path, first.run, texts(first))
    assert again.examples.order_digest == first.examples.order_digest
    end(first)
    # What has ended has ended: the same task begins another run, on what there is now.
    other = shop.begun(shop.task())
    assert other.folder.path != first.folder.path
    assert len(texts(other)) == 90
    end(other)
    assert shop.begun(shop.task()).folder.path == other.folder.path


def test_a_run_says_what_it_took(shop: Shop) -> None:
    shop.archived(
        *(answered(number, days_ago=1 + number % 2) for number in range(40)),
        answered(50, text=None),
        answered(51, value=None),
        answered(52, text="SECRET  text 3"),
    )
    run = shop.begun(shop.task()).run
    assert run.archived is not None
    taken = run.archived.taken
    assert (taken.endpoint, taken.rows, taken.versions) == ("/shop/mood", 40, {1: 40})
    days = [datetime.fromtimestamp(NOW_MS / 1000, UTC) - timedelta(days=ago) for ago in (2, 1)]
    assert sorted(taken.days) == [f"{day:%Y-%m-%d}" for day in days]
    assert taken.left_out == {
        "without their text": 1,
        "without a value": 1,
        "of a text that another row has, or not drawn": 1,
    }
    assert not run.is_of_known_answers
    assert run.data_digest.startswith("sha256:")


def test_nothing_that_stands_in_a_row_is_in_the_folder(shop: Shop) -> None:
    shop.archived(*(answered(number) for number in range(40)))
    begun = shop.begun(shop.task())
    files = [file for file in begun.folder.path.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"run.json", "rows.jsonl"}
    for file in files:
        for secret in (b"secret", b"id3", b"good", b"gw.shop"):
            assert secret not in file.read_bytes().replace(b'"good"', b"" if file.name == "run.json" else b'"good"')


def test_a_run_does_not_go_on_without_a_row_that_is_erased(shop: Shop) -> None:
    shop.archived(*(answered(number) for number in range(40)))
    begun = shop.begun(shop.task())
    assert shop.archive.erase("id7") == 1
    refusal = shop.refused(shop.task())
    assert refusal.code is FailureCode.INVALID_DATA
    assert "1 of the 40 rows with which the run began are no longer in the archive of /shop/mood" in refusal.message
    # In another folder it begins anew, without that row. What had ended needs no rows.
    assert len(texts(shop.begun(shop.task(), shop.folder / "other"))) == 39
    end(begun)
    assert shop.begun(shop.task(), begun.folder.path).run == begun.run


def test_a_run_does_not_go_on_without_rows_that_are_too_old(shop: Shop) -> None:
    shop.archived(*(answered(number, days_ago=1 + 20 * (number % 2)) for number in range(40)))
    shop.begun(shop.task())
    shop.archive.sweep(datetime.now(UTC), 10)
    assert "20 of the 40 rows" in shop.refused(shop.task()).message


def test_a_job_goes_on_in_its_own_folder(shop: Shop) -> None:
    """A trainer names the folder; the next one finds the run there, also when it has ended and is to be published."""
    shop.archived(*(answered(number) for number in range(40)))
    out = shop.folder / "job" / "run"
    first = shop.begun(shop.task(), out)
    shop.archived(*(answered(number) for number in range(40, 60)))
    assert texts(shop.begun(shop.task(), out)) == texts(first)
    end(first)
    assert shop.begun(shop.task(), out).run == first.run
    assert "another task" in shop.refused(shop.task(instruction="Other."), out).message


def test_a_finished_run_is_found_by_its_task(shop: Shop) -> None:
    file = shop.folder / "task.yaml"
    file.write_text(
        "{kind: task/v1, namespace: shop, endpoint: mood, model_sizes: [small], data: {archive: /shop/mood, folds: 0}, "
        "output: {type: choice, labels: [good, bad]}}"
    )
    with pytest.raises(Refusal, match="there is no run of this task"):
        folder_of(file, shop.settings, None)
    shop.archived(*(answered(number) for number in range(40)))
    begun = shop.begun(shop.task())
    end(begun)
    shop.archived(*(answered(number) for number in range(40, 60)))
    assert folder_of(file, shop.settings, None).path == begun.folder.path
    assert folder_of(file, shop.settings, begun.folder.path).run() == begun.run


def test_corrections_of_people(shop: Shop) -> None:
    shop.archived(*(answered(number, value=None if number == 5 else "good") for number in range(40)))
    file = shop.folder / "right.jsonl"

    def write(count: int) -> None:
        lines = [f'{{"id": "id{number}", "label": "{LABELS.labels[number % 2]}"}}\n' for number in range(count)]
        file.write_text("".join(lines))

    write(20)
    task = shop.task(ArchivedRows(endpoint="/shop/mood", corrections="right.jsonl"))
    first = shop.begun(task)
    answers = {text: answer for _, text, answer in texts(first)}
    assert (answers["secret text 5"], answers["secret text 6"], answers["secret text 21"]) == ("bad", "good", "good")
    assert first.run.archived is not None
    assert first.run.archived.taken.corrected == 20
    assert not first.run.is_of_known_answers
    # With more of them it is another run; one in a folder of its own does not go on with others.
    write(40)
    more = shop.begun(task)
    assert more.folder.path != first.folder.path
    assert more.run.is_of_known_answers
    assert "began with other corrections" in shop.refused(task, first.folder.path).message


def test_rows_with_known_answers_to_report_on(shop: Shop) -> None:
    shop.archived(*(answered(number) for number in range(40)))
    lines = ['{"text": "Secret text 4", "label": "good"}', '{"text": "new", "label": "bad"}']
    (shop.folder / "known.jsonl").write_text("\n".join(lines))
    begun = shop.begun(shop.task(eval="known.jsonl"))
    assert begun.run.archived is not None
    assert begun.run.archived.taken.left_out == {"in data.eval": 1}
    assert [row.text for row in begun.examples.eval] == ["Secret text 4", "new"]
    assert begun.run.is_of_known_answers


def test_what_cannot_be_is_one_sentence_each(shop: Shop) -> None:
    task = shop.task()
    refusal = shop.refused(task)
    assert (refusal.code, "is empty in this store" in refusal.message) == (FailureCode.INVALID_DATA, True)
    shop.catalogue = catalogue(endpoint(archive=False))
    refusal = shop.refused(task)
    assert (refusal.code, "archives nothing: apply it with" in refusal.message) == (FailureCode.INVALID_DATA, True)
    shop.catalogue = catalogue()
    refusal = shop.refused(task)
    assert (refusal.code, "has no endpoint /shop/mood" in refusal.message) == (FailureCode.UNKNOWN_ENDPOINT, True)
    shop.catalogue = catalogue(endpoint())
    shop.archived(*(answered(number, days_ago=3) for number in range(40)))
    refusal = shop.refused(shop.task(ArchivedRows(endpoint="/shop/mood", since="2020-01-01", until="2020-02-01")))
    assert (refusal.code, "has no results of the days" in refusal.message) == (FailureCode.INVALID_DATA, True)
    refusal = shop.refused(shop.task(output=Choice(labels=["x", "y"])))
    assert refusal.code is FailureCode.INVALID_DATA
    assert "(40 were looked at: 40 with an answer that the task's output does not have)" in refusal.message
    shop.catalogue = catalogue(endpoint(), endpoint(input=InputRule(template="Say: {text}")))
    assert "40 of another template" in shop.refused(task).message
    shop.archive.erase("id0")
    shop.catalogue = catalogue(endpoint())
    few = shop.task(ArchivedRows(endpoint="/shop/mood", sample=8))
    assert "the archive of /shop/mood" in shop.refused(msgspec.structs.replace(few, output=Choice(["good"]))).message


@pytest.mark.parametrize("address", ["/rival/mood", "/public/mood"])
def test_the_archive_of_another_namespace_is_not_read(shop: Shop, address: str) -> None:
    Archive(shop.settings.store, *address[1:].split("/")).write([row_of(*answered(1))], "jsonl")
    refusal = shop.refused(shop.task(address))
    assert refusal.code is FailureCode.NOT_ALLOWED
    assert f"the archive of {address} holds texts of namespace {address.split('/')[1]}" in refusal.message
    assert not (shop.settings.home / "runs").exists()


def test_an_archive_does_not_show_how_well_an_endpoint_does(shop: Shop) -> None:
    with pytest.raises(Refusal, match=r"name rows with known answers in data\.eval") as caught:
        run_studio.evaluate(shop.settings, shop.task(), shop.folder, size="small")
    assert caught.value.code is FailureCode.INVALID_DATA
