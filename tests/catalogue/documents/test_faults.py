"""What is wrong with manifests is told all at once, by file, line and field, and with the nearest right word."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from guideway.catalogue.documents import toml_lines
from guideway.catalogue.documents.faults import MAX_TOLD, Faulty
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.schemas.failures import FailureCode
from guideway.training.runs.task import read_task

HEAD = "kind: endpoint/v1\nnamespace: shop\nname: mood\nmodel_size: small\n"
WHOLE = HEAD + "output: {type: text}\n"
TASK = (
    "kind: task/v1\nnamespace: shop\nendpoint: mood\nmodel_sizes: [small]\ndata: {train: a.csv}\noutput: {type: text}\n"
)


def told(place: Path) -> list[str]:
    """The faults of a file or folder, without the folder's name."""
    with pytest.raises(Faulty) as caught:
        read_manifests(place)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    folder = place if place.is_dir() else place.parent
    return [str(fault).replace(f"{folder}{os.sep}", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            HEAD.replace("model_size: small\n", ""),
            ["1: endpoint /shop/mood: missing required fields `model_size`, `output`"],
        ),
        (
            HEAD + "output:\n  type: chioce\n  labels: [a]\n",
            ["6: endpoint /shop/mood: output.type: invalid value 'chioce': did you mean choice? it is one of text, "],
        ),
        (
            HEAD + "output: {labels: [a]}\n",
            ["5: endpoint /shop/mood: output: missing required field `type`: it is one of"],
        ),
        (
            HEAD + "output:\n  type: choice\n  lables: [a]\nmax_tokens: 3\ngeneration:\n  temprature: 3\n",
            [
                "7: endpoint /shop/mood: unknown field `lables` in output: did you mean labels? there is type,",
                "8: endpoint /shop/mood: unknown field `max_tokens`: it belongs under `retrieval` or `generation` or "
                "`request_generation`; ",
                "10: endpoint /shop/mood: unknown field `temprature` in generation: did you mean temperature? ",
            ],
        ),
        (
            WHOLE.replace("shop", "Shop_A") + "lane: intractive\nguidance: tone\nrequest_guidance: [a/b, tone]\n",
            [
                "2: namespace: 'Shop_A' does not fit: did you mean shop-a? write 1 to 63 of a-z, 0-9 and hyphens",
                "6: lane: invalid value 'intractive': did you mean interactive? it is one of batch, interactive",
                '7: guidance: it must be a list, and is "tone" (write [tone])',
                "8: request_guidance[1]: 'tone' does not fit: write NAMESPACE/NAME, perhaps with @VERSION",
            ],
        ),
        (
            WHOLE + "targets: [Crm Inbox, {webhook: crm}]\narchive: often\n",
            [
                "6: endpoint /shop/mood: targets[0]: 'Crm Inbox' does not fit: write NAME of this namespace, or "
                "/NAMESPACE/NAME",
                '7: endpoint /shop/mood: archive: it must be true or false or names with values, and is "often"',
            ],
        ),
        (
            WHOLE + "input:\n  fields:\n    fine: {}\n    one:\n      typ: string\n    two:\n      required: no\n"
            "      type: strin\n",
            [
                "10: endpoint /shop/mood: unknown field `typ` in input.fields.one: did you mean type?",
                '12: endpoint /shop/mood: input.fields.two.required: it must be true or false, and is "no"',
                "13: endpoint /shop/mood: input.fields.two.type: invalid value 'strin': did you mean string?",
            ],
        ),
        (
            WHOLE + "retrieval:\n  sets: [a/b]\n  filter:\n    fine: text\n    not fine: text\n",
            ["10: endpoint /shop/mood: retrieval.filter.not fine: 'not fine' does not fit: write 1 to 100 letters"],
        ),
        (
            WHOLE.replace("{type: text}", "{type: choice, labels: []}")
            + 'generation: {stop: [""], samples: 99}\nmax_text_chars: 0',
            [
                "5: endpoint /shop/mood: output.labels: it must be a list of at least 1 items, and has 0",
                "6: endpoint /shop/mood: generation.stop[0]: it must be text of at least 1 characters, and has 0",
                "6: endpoint /shop/mood: generation.samples: it must be an integer of at most 16, and is 99",
                "7: endpoint /shop/mood: max_text_chars: it must be an integer of at least 1, and is 0",
            ],
        ),
        (
            WHOLE + "calibration: of\nshadow:\n  with: candidat\n  share: 2\n",
            [
                "6: endpoint /shop/mood: calibration: invalid value 'of': did you mean off? it is one of auto,",
                "8: endpoint /shop/mood: shadow.with: invalid value 'candidat': did you mean candidate?",
                "9: endpoint /shop/mood: shadow.share: it must be a number of at most 1, and is 2",
            ],
        ),
        (
            WHOLE + "shadow:\n  with: {guidence: [shop/tone@4]}\n",
            ["7: endpoint /shop/mood: unknown field `guidence` in shadow.with: did you mean guidance?"],
        ),
        (
            WHOLE + "shadow:\n  with: {instruction: x}\n  promote: if_better\n",
            ["6: endpoint /shop/mood: shadow.promote is `if_better`, and live traffic has no right answers"],
        ),
        (
            WHOLE + "input: {fields: {text: }}\n",
            ["6: endpoint /shop/mood: input.fields.text: it must be names with values, and is null"],
        ),
        (WHOLE + "retrieval: {}\n", ["6: endpoint /shop/mood: retrieval names no set"]),
        (
            WHOLE + "input:\n  text_field: words\n",
            ["7: endpoint /shop/mood: input.text_field names 'words': declare it"],
        ),
        (
            WHOLE + "generation:\n  temperature: '0.5'\n",
            ['7: endpoint /shop/mood: generation.temperature: it must be a number, and is "0.5" (write it without'],
        ),
        (
            WHOLE + "deadline_s: .nan\ndescription: !!binary eA==\n",
            ["6: deadline_s: nan is no number that JSON has", "7: description: b'x' is a bytes"],
        ),
        (WHOLE + "---\n# again\n" + WHOLE, ["10: endpoint /shop/mood: it is in a.yaml:1 as well: keep one of them"]),
        (WHOLE + "a: [1\nb: 2", ["7: it is no YAML: expected ',' or ']', but got ':', in what begins on line 6"]),
        (WHOLE + "input:\n\tfields: {}", ["7: it is no YAML: found character '\\t'", "indent with spaces"]),
        (
            WHOLE + "description: why: not",
            ["6: it is no YAML: mapping values are not allowed here: put a text that has"],
        ),
        (WHOLE + "description: \x1b[1mx", ["6: it is no YAML: it has the character U+001B: remove it"]),
        (WHOLE + "model_size: large", ["6: 'model_size' is written twice: keep one of them"]),
        (
            "\n\napiVersion: v1\nkind: Pod\n",
            ["4: it is a manifest of Kubernetes (v1, Pod): give it to kubectl; a manifest has"],
        ),
        ("services: {web: {image: x}}", ["1: it is a compose file: give it to docker compose; a manifest has `kind:"]),
        ("- a", ["1: it is a list, and a manifest is names with values"]),
        ("a", ["1: it is a single value"]),
        ("name: x", ["1: it has no `kind`, and a manifest has `kind: endpoint/v1`, `guidance/v1` or `model/v1`"]),
        ("kind: Endpoint", ["1: invalid value 'Endpoint' of `kind`: did you mean endpoint/v1?"]),
        ("kind: [endpoint/v1]", ["1: invalid value ['endpoint/v1'] of `kind`"]),
        (TASK, ["1: kind 'task/v1' is a task of the studio: run it with `guideway studio run`"]),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_the_right_word(tmp_path: Path, text: str, faults: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    found = told(tmp_path / "a.yaml")
    if faults[-1] == "indent with spaces":
        assert faults.pop() in found[0]
    assert len(found) == len(faults)
    for fault, says in zip(found, faults, strict=True):
        assert fault.startswith(f"a.yaml:{says}")


def test_all_files_of_a_folder_are_looked_through(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.yaml").write_text(WHOLE.replace("mood", f"mood-{number}"))
    assert len(read_manifests(tmp_path)) == 30
    (tmp_path / "03.yaml").write_text("a: [")
    (tmp_path / "07.yaml").write_text(WHOLE.replace("mood", "mood-8"))
    (tmp_path / "29.yaml").write_text(WHOLE.replace("small", "Small"))
    assert told(tmp_path) == [
        "03.yaml:1: it is no YAML: expected the node content, but found '<stream end>', in what begins on line 1",
        "08.yaml:3: endpoint /shop/mood-8: it is in 07.yaml:1 as well: keep one of them",
        "29.yaml:4: endpoint /shop/mood: model_size: 'Small' does not fit: did you mean small? write 1 to 63 of a-z, "
        "0-9 and hyphens, no hyphen first or last",
    ]


def test_of_very_many_faults_so_many_are_told_as_somebody_reads(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\n".join(["kind: x\n"] * 2000))
    with pytest.raises(Faulty, match=r"at least 1000 things are wrong:(.|\n)*and 980 more") as caught:
        read_manifests(tmp_path)
    assert len(caught.value.message.splitlines()) == MAX_TOLD + 2
    (tmp_path / "a.yaml").write_text(f"{WHOLE}{'x' * 100_000}: 1\n" + "".join(f"unknown{n}: 1\n" for n in range(5000)))
    with pytest.raises(Faulty) as caught:
        read_manifests(tmp_path)
    assert len(caught.value.message) < 30_000


def test_what_somebody_wrote_cannot_look_like_a_further_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WHOLE + '"x\\nb.yaml:1: all is well": 1\n')
    (fault,) = told(tmp_path)
    assert "\n" not in fault


def test_links_are_followed_and_hidden_files_are_not(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap; and as version control and editors leave things behind."""
    (tmp_path / "..2026_11_29").mkdir()
    (tmp_path / "..2026_11_29" / "a.yaml").write_text(WHOLE)
    (tmp_path / "..data").symlink_to("..2026_11_29")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / ".a.yaml.swp.yaml").write_bytes(b"\0")
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-more")
    elsewhere.mkdir()
    (elsewhere / "B.YML").write_text(WHOLE.replace("mood", "tone"))
    (elsewhere / "round").symlink_to(tmp_path)
    (tmp_path / "more").symlink_to(elsewhere)
    (tmp_path / "more-again").symlink_to(elsewhere)
    assert [source.manifest.name for source in read_manifests(tmp_path)] == ["mood", "tone"]
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    assert told(tmp_path) == ["gone.yaml: it cannot be read: No such file or directory"]


def test_manifests_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    given(WHOLE)
    assert [source.manifest.name for source in read_manifests(Path("-"))] == ["mood"]
    for text, says in (("", "standard input: it holds no manifest"), (WHOLE + "x: 1", "standard input:6: endpoint")):
        given(text)
        with pytest.raises(Faulty, match=says):
            read_manifests(Path("-"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\ufeff# first\n" + WHOLE + "lane: x\n", 7),
        (WHOLE.replace("\n", "\r\n") + "lane: x\r\n", 6),
        ("# a\n---\n" + WHOLE + "lane: x\n...\n---\n" + WHOLE.replace("mood", "b"), 8),
        ("\n  " + WHOLE.replace("\n", "\n  ") + "lane: x\n", 7),
        (
            "--- {kind: endpoint/v1, namespace: shop,\n  name: mood, model_size: s,\n  output: {type: text},\nlane: x}",
            4,
        ),
        ("instruction: |\n  lane: y\n\n" + WHOLE + "lane: x\n", 9),
        ("%YAML 1.2\n---\n" + WHOLE + "lane: x\n", 8),
        (WHOLE + "input: &all {fields: {text: &f {max_chars: 1}, b: {<<: *f}}}\nlane: x", 7),
    ],
)
def test_the_line_is_that_of_the_file_however_it_is_laid_out(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode())
    assert [one.partition(": ")[0] for one in told(tmp_path)] == [f"a.yaml:{line}"]


def test_a_line_inside_of_what_is_merged_in(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        WHOLE
        + "input:\n  fields:\n    text: &base\n      max_chars: 0\n    more:\n      <<: *base\n      type: strin\n"
    )
    assert [one.partition(": ")[0] for one in told(tmp_path)] == ["a.yaml:9", "a.yaml:9", "a.yaml:12"]


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WHOLE)
    os.mkfifo(tmp_path / "b.yaml")
    assert told(tmp_path) == ["b.yaml: it is a pipe or a device, and no file: leave it out"]


def test_what_is_empty_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# later\n---\n")
    assert "it is empty, or has nothing but comments" in told(tmp_path / "a.yaml")[0]
    assert "it holds no manifest: write some as *.yaml" in told(tmp_path)[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            TASK + "methods:\n- {form: lora}\n- {form: lorra}\n",
            "9: methods[1].form: invalid value 'lorra': did you mean lora?",
        ),
        (TASK + "methods:\n- form: lora\n  rnk: 8\n", "9: unknown field `rnk` in methods[0]: did you mean rank?"),
        (TASK + "stop:\n  max_step: 8\n", "8: unknown field `max_step` in stop: did you mean max_steps?"),
        (TASK + "publish:\n  method: lora\n", "8: publish.method names 'lora', which is none of the methods"),
        (WHOLE, "1: kind 'endpoint/v1' is a manifest: put it into the catalogue with `guideway apply`"),
        ("", " it holds no task"),
    ],
)
def test_the_studios_tasks_are_held_to_the_same(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(Faulty) as caught:
        read_task(tmp_path / "task.yaml")
    assert caught.value.message.replace(f"{tmp_path}{os.sep}", "").startswith(f"task.yaml:{fault}")


TOML = '''# The first line.
kind = "endpoint/v1"
name = """
several
lines"""
output.type = "choice"
output.labels = [
  "a",
]
[input]
fields.text = {type = "string"}
[input.fields.more]
type = "string"
[[methods]]
form = "lora"
[[methods]]
form = "ia3"
[methods.more]
x = 1
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((), 1),
        (("nowhere",), 1),
        (("kind",), 2),
        (("name",), 3),
        (("output",), 6),
        (("output", "labels", 0), 7),
        (("input",), 10),
        (("input", "fields", "text", "type"), 11),
        (("input", "fields", "more"), 12),
        (("input", "fields", "more", "type"), 13),
        (("methods", 0, "form"), 15),
        (("methods", 1), 16),
        (("methods", 1, "form"), 17),
        (("methods", 1, "more", "x"), 19),
    ],
)
def test_the_lines_of_toml(place: tuple[str | int, ...], line: int) -> None:
    assert toml_lines.line_of(TOML, place) == line


def test_toml_is_refused_by_line_too(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'kind = "endpoint/v1"\nnamespace = "shop"\nname = "mood"\n[output]\ntype = "txt"\n'
    )
    assert told(tmp_path)[0].startswith(
        "a.toml:5: endpoint /shop/mood: output.type: invalid value 'txt': did you mean text?"
    )
    (tmp_path / "a.toml").write_text('kind = "endpoint/v1"\nname = \n')
    assert told(tmp_path) == ["a.toml:2: it is no TOML: Invalid value"]
