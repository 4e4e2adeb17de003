"""Mixed rows on one tiny model: each as if it were alone, each ended once, the weights untouched."""

from __future__ import annotations

import hashlib

import torch

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.messages import Admit, BatchReport, Finished, Progress, Refused
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of


def mixed(make_admit: MakeAdmit, make_lora: MakeArtefact, make_soft_prompt: MakeArtefact) -> list[Admit]:
    soft = [make_soft_prompt(f"weather/soft{n}@1", num_virtual_tokens=n) for n in (1, 7)]
    loras = [
        make_lora("news/narrow@1", r=2),
        make_lora("news/wide@3", r=8, target_modules="all-linear", use_rslora=True),
        make_lora("public/uneven@1", r=4, rank_pattern={"layers.1.*q_proj": 6}, alpha_pattern={"v_proj": 3}),
    ]
    return [
        make_admit("plain"),
        make_admit("a soft prompt", artefacts=[soft[0]], max_tokens=3),
        make_admit("two soft prompts", artefacts=soft),
        make_admit("narrow", artefacts=[loras[0]], namespace="news", max_tokens=12),
        make_admit("wide, and a longer text than the others have", artefacts=[loras[1]], namespace="news"),
        make_admit("uneven", artefacts=[loras[2]]),
        make_admit("everything", artefacts=[soft[1], *loras], instruction="Answer.", max_tokens=10),
        make_admit("yes?", output=Boolean("yes/no")),
        make_admit("red?", output=Choice(["red", "green", "greenish"]), artefacts=[loras[0], soft[0]]),
        make_admit("form", output=Regex("[a-z]{3,9}-[0-9]+"), temperature=1.0, seed=3),
        make_admit("drawn", temperature=0.7, top_p=0.9, samples=3),
    ]


def test_a_row_in_a_mixed_batch_equals_the_row_alone(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, make_soft_prompt: MakeArtefact
) -> None:
    admits = mixed(make_admit, make_lora, make_soft_prompt)
    together = ends(run(make_engine(), admits))
    assert len({str(end) for end in together.values()}) == len(admits)
    for admit in admits:
        assert ends(run(make_engine(), [admit]))[admit.id] == together[admit.id]
