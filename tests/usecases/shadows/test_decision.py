"""What is done next about a shadow, and what it compares: pure, from the catalogue and from the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import pytest
from tests.training.publishing.test_decision import catalogue, endpoint, guided

from guideway.catalogue.entries import Catalogue
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text
from guideway.schemas.services.shadow import ShadowAnswer, ShadowRow, ShadowState
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.shadow import promoted_of
from guideway.usecases.shadows.book import Rows
from guideway.usecases.shadows.decision import Begin, Follow, Judge, NotePromoted, Rest, Step, Stop, next_step
from guideway.usecases.shadows.declared import Idle, declared
from guideway.usecases.shadows.ending import begun, ended, promoted_state

BETTER, NOISE, OLD = (
    guided(n, s) for n, s in (("new", (0.95, 0.93, 0.97)), ("new", (0.82, 0.78, 0.86)), ("old", (0.8, 0.76, 0.84)))
)
CANDIDATE = endpoint("mood-candidate", "new@1")
RULE = Shadow(rows=200, promote="if_better")


def mood(guidance: str = "old@1", rule: Shadow | None = RULE, instruction: str = "") -> Endpoint:
    return msgspec.structs.replace(endpoint("mood", guidance), shadow=rule, instruction=instruction)


def known(*more: Manifest, new: Manifest = BETTER) -> Catalogue:
    return catalogue(new, OLD, CANDIDATE, mood(), *more)


def plan_in(there: Catalogue) -> Plan:
    plan = declared(there, "shop", "mood")
    assert isinstance(plan, Plan), plan
    return plan


def running(there: Catalogue) -> ShadowState:
    return begun(plan_in(there), 1)


def answered(count: int, *, failed: Sequence[str] = ()) -> Rows:
    """So many rows; failed: of which sides."""
    rows, good, bad = (
        Rows(),
        ShadowAnswer(value="good", text="good"),
        ShadowAnswer(failure="text_too_long", message="no"),
    )
    for number in range(count):
        now, new = (bad if side in failed else good for side in ("now", "new"))
        rows.put(str(number).encode(), ShadowRow(shadow="s", id=str(number), now=now, new=new))
    return rows


def step(there: Catalogue, state: ShadowState | None, rows: int | Rows = 0) -> Step:
    what = declared(there, "shop", "mood")
    return next_step(there, "shop", "mood", what, state, answered(rows) if isinstance(rows, int) else rows)


def test_a_shadow_from_its_beginning_to_its_end() -> None:
    there = known()
    plan, state = plan_in(there), running(there)
    assert step(there, None) == Begin(plan)
    assert step(there, state, 199) == Follow(plan)
    assert step(there, state, 200) == Judge(plan, "")
    promoting = msgspec.structs.replace(state, stage="promoting")
    assert step(there, promoting, 200) == Judge(plan, ""), "a kill came before it was promoted"
    after = known(promoted_of(plan, there))
    assert step(after, promoting, 200) == NotePromoted(2), "a kill came behind it"
    done = promoted_state(promoting, 2, 2)
    assert step(after, done) == Rest()
    assert step(known(promoted_of(plan, there), mood()), done) == Rest(), (
        "somebody has taken it back, who is not fought"
    )


def test_what_is_promoted_is_what_was_compared_and_keeps_its_shadow_for_the_next_candidate() -> None:
    there = known()
    made = promoted_of(plan_in(there), there)
    assert (made.guidance, made.shadow) == (["shop/new@1"], RULE)
    after = known(made)
    assert isinstance(declared(after, "shop", "mood"), Idle)
    newer = msgspec.structs.replace(BETTER, description="newer")
    following = catalogue(BETTER, OLD, CANDIDATE, made, newer, endpoint("mood-candidate", "new@2"))
    assert isinstance(declared(following, "shop", "mood"), Idle), "it is no better than the one before"


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ([mood(instruction="Else.")], "has changed since version 1 of it: it begins anew"),
        ([msgspec.structs.replace(CANDIDATE, instruction="Else.")], "it begins anew"),
        ([mood(rule=None)], "declares no shadow any more"),
        ([Namespace(namespace="public", name="shop", waiting=5)], r"has limits \(waiting\).*`despite_limits: true`"),
    ],
)
def test_what_has_changed_ends_it_before_it_has_all_rows(then: list[Manifest], says: str) -> None:
    state, there = running(known()), known(*then)
    found = step(there, state, 100)
    assert isinstance(found, Stop)
    assert re.search(says, found.why), found.why
    over = ended(state, 2, None, "", found.why)
    assert (over.outcome, over.why) == ("stopped", found.why)
    assert isinstance(step(there, over), Begin if "begins anew" in says else Rest)


def test_other_weights_behind_the_same_name_make_it_another_shadow() -> None:
    first, other = (
        Model(namespace="public", name="small", source="a", fingerprint="sha256:" + char * 64) for char in "ab"
    )
    assert plan_in(known(first)).id == plan_in(known(first)).id != plan_in(known(first, other)).id
    found = step(known(first, other), running(known(first)), 100)
    assert isinstance(found, Stop)
    assert "begins anew" in found.why


def test_a_deleted_endpoint_ends_it() -> None:
    assert step(catalogue(BETTER), running(known()), 100) == Stop("/shop/mood was deleted")


def test_what_does_not_change_what_is_compared_does_not_end_it() -> None:
    there = known(msgspec.structs.replace(mood(), description="For people.", access=["web"]))
    state = running(known())
    found = step(there, state, 100)
    assert isinstance(found, Follow)
    assert found.plan.question.version == 2
    made = promoted_of(found.plan, there)
    assert (made.description, made.access, made.guidance) == ("For people.", ["web"], ["shop/new@1"])
    promoting = msgspec.structs.replace(state, stage="promoting")
    assert step(there, promoting, 200) == Stop("/shop/mood was changed while its candidate was to take its place")


@pytest.mark.parametrize(("failed", "who"), [(["new"], "the new endpoint"), (["now", "new"], "the endpoint as it is")])
def test_one_that_has_no_result_for_any_row_is_not_asked_two_thousand_times(failed: list[str], who: str) -> None:
    there = known()
    assert isinstance(step(there, running(there), answered(19, failed=failed)), Follow)
    found = step(there, running(there), answered(20, failed=failed))
    assert isinstance(found, Judge)
    assert found.early == f"{who} has no result for any of 20 rows: no"


def test_a_shadow_waits_for_what_may_come() -> None:
    for there, says in (
        (catalogue(OLD, mood()), "there is no candidate /shop/mood-candidate yet"),
        (known(new=NOISE), "does not beat the endpoint as it is"),
        (catalogue(BETTER, OLD, CANDIDATE, mood("new@1")), "is as its candidate already"),
        (known(msgspec.structs.replace(CANDIDATE, output=Text())), "results of type choice cannot be compared with"),
    ):
        found = declared(there, "shop", "mood")
        assert isinstance(found, Idle)
        assert says in found.why
        assert not found.is_wrong
        assert step(there, None) == Rest()
    assert plan_in(known(mood(rule=Shadow()), new=NOISE)).shadow, "that is never promoted may be compared"


def test_what_would_be_different_is_compared_by_its_versions_and_never_promoted() -> None:
    changes = ShadowChanges(guidance=["shop/new"], instruction="")
    there = catalogue(BETTER, OLD, mood(instruction="Say it.", rule=Shadow(with_=changes)))
    plan = plan_in(there)
    assert (plan.new.guidance, plan.new.instruction, plan.new.shadow) == (["shop/new@1"], "", None)
    assert plan.question.changes == {"guidance": "shop/new@1", "instruction": "none"}
    newer = catalogue(
        BETTER,
        OLD,
        mood(instruction="Say it.", rule=Shadow(with_=changes)),
        msgspec.structs.replace(BETTER, description="newer"),
    )
    assert plan_in(newer).id != plan.id
    assert ended(begun(plan, 1), 2, None, "", "").outcome == "compared"
    with pytest.raises(ValueError, match="only a candidate has the score of a run"):
        Shadow(with_=changes, promote="if_better")
    with pytest.raises(ValueError, match="says nothing that is new"):
        Shadow(with_=ShadowChanges())
    with pytest.raises(ValueError, match="are too few to promote anything: write 200 or more"):
        Shadow(rows=199, promote="if_better")
