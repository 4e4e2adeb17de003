"""attacks.md: what team A tries on team B, on `public` and on the platform.

`PYTHONPATH=. python -m tests.secured.attacks.page` writes it. Each line is a test, or one of a test's cases.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

from . import (
    test_by_commands,
    test_on_the_catalogue,
    test_on_the_cluster,
    test_on_the_services,
    test_on_the_steward,
    test_on_the_trainer,
)

PAGE: Final = Path(__file__).with_name("attacks.md")
MODULES: Final = (
    test_on_the_cluster,
    test_on_the_services,
    test_on_the_catalogue,
    test_by_commands,
    test_on_the_steward,
    test_on_the_trainer,
)
CASES: Final[Mapping[str, Iterable[str]]] = {
    "test_reading_is_refused": test_on_the_cluster.READS,
    "test_writing_is_refused": test_on_the_cluster.WRITES,
    "test_the_administrators_part_is_refused": test_on_the_cluster.OTHERS,
    "test_what_is_forged_has_no_effect_on_others": test_on_the_catalogue.FORGERIES,
    "test_an_endpoint_of_as_brings_nothing_of_b": test_on_the_catalogue.THIEVES,
    "test_a_command_is_refused": test_by_commands.REFUSED,
    "test_what_is_of_others_is_not_applied": test_by_commands.APPLIED,
    "test_the_steward_makes_what_the_namespace_may_have": test_on_the_steward.ASKED,
    "test_a_job_is_refused": test_on_the_trainer.JOBS,
}
"""Test → its cases, where these are attacks of their own."""
ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "learn by time whether B has sent the same text": (
        "workers/engine/model/test_prefix_cache.py",
        "test_who_calls_an_endpoint_of_others_does_not_learn_what_they_ask",
    ),
    "share a computed beginning with B": (
        "workers/engine/model/test_prefix_cache.py", "test_nothing_is_shared_between_namespaces"
    ),
    "forge a router's answer, as whoever may write its topic": (
        "workers/routing/test_routed.py", "test_a_forged_answer_has_no_effect"
    ),
    "ask a worker where B's router would send a text": (
        "workers/routing/test_routed.py", "test_a_question_by_hand_costs_its_answer_and_nothing_else"
    ),
    "have a text choose an endpoint that its namespace may not call": (
        "workers/routing/test_routed.py", "test_the_text_cannot_choose_what_its_namespace_may_not_call"
    ),
    "fill the cluster with topics, without limits of its own": (
        "infra/rights/test_keeping.py",
        "test_without_limits_topics_are_made_for_so_many_endpoints_and_what_is_there_stays",
    ),
    "keep workers busy with routers that change all the time": (
        "workers/routing/test_ahead.py", "test_somebody_who_changes_a_router_all_the_time_has_half_of_it"
    ),
    "hide a catalogue, and with it interrupt whoever follows the others": (
        "secured/test_a_hidden_catalogue.py", "test_one_that_may_not_be_read_costs_the_others_nothing"
    ),
}  # fmt: skip
"""Attack → (file in tests/, test), where no cluster with all services is needed."""
_HEAD: Final = """\
# What one team cannot do to another

Team A is a tenant: it owns the namespace `a`, has the rights that `guideway namespaces create` gives, and any client it
likes. It tries what a bored attacker would try on team B, on `public` and on the platform. Each line is a test, or a
case of one, on Apache Kafka with SASL_SSL, SCRAM and everything denied by default ([cluster.py](../cluster.py)), with
the services running as principals of their own. The engine is the worst that there could be: it tells whoever asks all
that it was shown ([telling_engine.py](../services/telling_engine.py)). At the end all that A may read is searched for a
word that stands in all that is B's.

`python -m tests.secured.attacks.page` writes this page from the tests.
"""


def tests_of(module: ModuleType) -> list[str]:
    """The name of each test, in the order of the file."""
    return [name for name, one in vars(module).items() if name.startswith("test_") and inspect.isfunction(one)]


def lines() -> list[tuple[str, str, str]]:
    """(attack, file, test) of each line of the page."""
    found = []
    for module in MODULES:
        file = Path(str(module.__file__)).name
        for name in tests_of(module):
            sentence = name.removeprefix("test_").replace("_", " ")
            found += [(what, file, name) for what in CASES.get(name, [sentence])]
    return found


def written() -> str:
    """The whole page."""
    parts, listed = [_HEAD], lines()
    for module in MODULES:
        file = Path(str(module.__file__)).name
        docstring = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        rows = [f"| {what} | `{name}` |" for what, of, name in listed if of == file]
        title = file.removeprefix("test_").removesuffix(".py").replace("_", " ").capitalize()
        table = [f"| what A tries, or what holds | test in [{file}]({file}) |", "|---|---|", *rows]
        parts.append("\n".join([f"## {title}", "", docstring, "", *table, ""]))
    rows = [f"| {what} | [{Path(file).name}](../../{file}): `{name}` |" for what, (file, name) in ELSEWHERE.items()]
    table = ["| what A tries | test |", "|---|---|", *rows]
    parts.append("\n".join(["## Elsewhere", "", "What needs no cluster with all services.", "", *table, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
    print(f"{PAGE}: {len(lines())} lines")
