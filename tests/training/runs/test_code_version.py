"""The name of the code that trains: it changes with whatever decides a training, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import guideway
from guideway.training.runs import code_version

ROOT = Path(guideway.__file__).parent
DECIDE = (
    "training/runs/run.py",
    "training/runs/train_method.py",
    "training/runs/machine.py",
    "training/fitting/trainer.py",
    "training/fitting/batches.py",
    "training/fitting/stop_rules.py",
    "training/fitting/encoding.py",
    "training/data/examples.py",
    "training/data/columns.py",
    "training/sets/context.py",
    "schemas/output.py",
    "catalogue/adapters/adapter.py",
    "workers/engine/engine.py",
    "workers/engine/text/prompt.py",
    "workers/engine/guidance/lora.py",
    "workers/engine/guidance/inserted_training.py",
    "workers/engine/kernels/layer.c",
    "workers/retrieval/embedder.py",
)


def test_what_decides_a_training_is_in_it_and_what_transports_is_not() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in code_version.sources()}
    assert names >= set(DECIDE)
    assert not [name for name in names if name.startswith(("delivery/", "producers/", "infra/", "cli/"))]
    assert "training/jobs/service.py" not in names


@pytest.mark.parametrize("module", code_version.DECIDE_NOTHING)
def test_only_what_a_run_imports_is_left_out(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_all = [one for one in code_version.DECIDE_NOTHING if one != module]
    short = set(code_version.sources())
    monkeypatch.setattr(code_version, "DECIDE_NOTHING", with_all)
    assert set(code_version.sources()) > short


def test_places_comments_and_docstrings_do_not_change_it(tmp_path: Path) -> None:
    def digest(text: str) -> bytes:
        path = tmp_path / "one.py"
        path.write_text(text, encoding="utf-8")
        return code_version._digest(path)

    said = digest('"""Says."""\nfrom a.b import c\n\n\ndef f(x):\n    """Adds."""\n    return x + 1  # one\n')
    assert said == digest("import a\nfrom d import c\ndef f(x):\n  return (x + 1)\n")
    assert said != digest("def f(x):\n    return x + 2\n")
