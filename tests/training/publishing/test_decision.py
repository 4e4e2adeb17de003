"""From a run to manifests: which method, whether, and what becomes of the endpoint."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.producers.checks.calibration import settled
from guideway.schemas.calibration import automatic
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.manifests import Endpoint, Guidance, Lineage, Manifest, Model
from guideway.schemas.output import Choice, DoubtfulTarget
from guideway.schemas.retrieval import RetrievalRule
from guideway.schemas.wire import MANIFEST
from guideway.training.data.archived import Frozen, Taken
from guideway.training.evaluation.present import present_subject
from guideway.training.publishing.decision import choose_publication, endpoint_for, guidance_for
from guideway.training.publishing.promotion import promoted, unpaired
from guideway.training.runs.events import MethodStarted, PromptScored, RunEvent, Scored, Softening, Stopped, StopRule
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import BARE, PublishRule, Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import LoraMethod, PTuningMethod, SoftPromptMethod

DIGEST = "sha256:" + "a" * 64
LABELS = Choice(labels=["good", "bad"])


def run(**task: object) -> Run:
    made = Task(
        namespace="shop",
        endpoint="mood",
        model_sizes=["small", "medium"],
        data=Data(train="a.jsonl"),
        instruction="Say how it is.",
        output=LABELS,
        methods=[SoftPromptMethod(), LoraMethod(), PTuningMethod()],
    )
    return Run(
        id="shop-mood-1",
        task=msgspec.structs.replace(made, **task),
        folder="/nowhere",
        instruction=made.instruction,
        data_digest=DIGEST,
        eval_digest=DIGEST,
        code_version="1",
    )


def scored(method: str, value: float, *, over: tuple[float, float, float] = (0.2, 0.1, 0.3)) -> Scored:
    return Scored(
        at=0,
        size="small",
        method=method,
        metric="accuracy",
        value=value,
        low=value - 0.03,
        high=value + 0.03,
        rows=400,
        over_bare=list(over),
    )


def stopped(method: str, validation_loss: float) -> Stopped:
    return Stopped(
        at=0,
        size="small",
        method=method,
        rule="max_steps",
        step=9,
        best_step=9,
        validation_loss=validation_loss,
        elapsed_s=1,
        artefact_bytes=1,
    )


EVENTS: list[RunEvent] = [
    PromptScored(at=0, size="small", prompt="Worse.", source="task", metric="accuracy", value=0.5),
    PromptScored(at=0, size="small", prompt="Better.", source="template", metric="accuracy", value=0.6, chosen=True),
    MethodStarted(at=0, size="small", method="soft-prompt", trainable_parameters=1, fingerprint=DIGEST),
    MethodStarted(at=0, size="small", method="lora", trainable_parameters=1, fingerprint=DIGEST),
    stopped("soft-prompt", 0.3),
    stopped("lora", 0.5),
    scored("bare", 0.99),
    scored("text-prompt", 0.7, over=(0.1, -0.1, 0.2)),
    scored("soft-prompt", 0.9),
    scored("lora", 0.8, over=(0.05, -0.01, 0.1)),
]


def catalogue(*manifests: Manifest) -> Catalogue:
    """Each applied after the one before."""
    made = Catalogue()
    for manifest in manifests:
        [change] = plan_changes(made, [manifest])
        made.absorb(change.identity.topic, change.identity.key(change.version), MANIFEST.encode(manifest))
    return made


def test_the_method_is_chosen_by_the_validation_rows() -> None:
    """And not by the evaluation rows, on which it is tested."""
    close = [*EVENTS, stopped("ia3", 0.1), stopped("lora", 0.4), scored("lora", 0.95)]
    assert choose_publication(close, run(), size=None, method=None, anyway=True).scored.method == "soft-prompt"
    untrained = [event for event in EVENTS if not isinstance(event, Stopped)]
    assert choose_publication(untrained, run(), size=None, method=None, anyway=True).scored.method == "text-prompt"


def test_the_best_method_is_published_and_never_a_reference() -> None:
    publication = choose_publication(EVENTS, run(), size=None, method=None, anyway=False)
    assert (publication.size, publication.scored.method, publication.fingerprint) == ("small", "soft-prompt", DIGEST)


def test_what_is_not_better_by_more_than_chance_is_not_published_unless_told() -> None:
    with pytest.raises(Refusal, match="does not beat the bare model by more than chance") as caught:
        choose_publication(EVENTS, run(), size=None, method="lora", anyway=False)
    assert caught.value.code is FailureCode.NOT_BETTER
    assert choose_publication(EVENTS, run(), size=None, method="lora", anyway=True).scored.method == "lora"
    always = run(publish=PublishRule(when="always"))
    assert choose_publication(EVENTS, always, size=None, method="lora", anyway=False).scored.method == "lora"


@pytest.mark.parametrize(
    ("events", "size", "method", "words"),
    [
        (EVENTS, "large", None, "no model size 'large'; it has small, medium"),
        (EVENTS, "medium", None, "no comparison for size medium yet"),
        (EVENTS, None, "ia3", "no method 'ia3'; compared were: lora, soft-prompt, text-prompt"),
        ([], None, None, "no comparison for size small yet"),
    ],
)
def test_what_is_not_there(events: list[RunEvent], size: str | None, method: str | None, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        choose_publication(events, run(), size=size, method=method, anyway=False)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            "max_minutes",
            "its time was up at step 7 of 160, for which it needs about 46 minutes: raise stop.max",
        ),
        ("max_steps", "try another method or more examples"),
    ],
)
def test_the_advice_is_about_what_was_lacking(rule: StopRule, words: str) -> None:
    stopped = Stopped(
        at=0,
        size="small",
        method="lora",
        rule=rule,
        step=7,
        of=160,
        best_step=7,
        validation_loss=0.5,
        elapsed_s=120,
        artefact_bytes=9,
    )
    with pytest.raises(Refusal, match=words):
        choose_publication([*EVENTS, stopped], run(), size=None, method="lora", anyway=False)


def test_the_first_publication_makes_the_endpoint_and_names_the_guidance_by_version(tmp_path: Path) -> None:
    empty, made = Catalogue(), run()
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    guidance = guidance_for(publication, made, RunFolder(tmp_path), empty)
    assert (guidance.name, guidance.form, guidance.model_fingerprint) == ("mood-soft-prompt", "soft_prompt", DIGEST)
    assert guidance.artefact == str(tmp_path / "small" / "soft-prompt" / "artefact")
    assert guidance.lineage is not None
    assert (guidance.lineage.seed, guidance.lineage.score, guidance.lineage.parent) == (20261, [0.9, 0.87, 0.93], "")
    endpoint = endpoint_for(publication, made, guidance, 1, empty, name="mood", anyway=False)
    assert endpoint.guidance == ["shop/mood-soft-prompt@1"]
    assert (endpoint.model_size, endpoint.instruction, endpoint.output) == ("small", "Say how it is.", LABELS)
    assert endpoint.calibration == "off", "as it was compared"


def test_what_the_task_does_not_say_stays_as_the_endpoint_has_it(tmp_path: Path) -> None:
    old = Endpoint(
        namespace="shop",
        name="mood",
        model_size="medium",
        guidance=["shop/old@2"],
        output=LABELS,
        lane="batch",
        input=InputRule(template="Review: {text}"),
    )
    known, made = catalogue(old), run()
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
    assert guidance.lineage is not None
    assert guidance.lineage.parent == "shop/old@2"
    endpoint = endpoint_for(publication, made, guidance, 3, known, name="mood-candidate", anyway=True)
    assert (endpoint.name, endpoint.lane, endpoint.input) == ("mood-candidate", "batch", old.input)
    assert (endpoint.model_size, endpoint.guidance) == ("small", ["shop/mood-soft-prompt@3"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input": InputRule(template="Review: {text}")}, "adds an input template to the text of events"),
        (
            {"retrieval": RetrievalRule(sets=["shop/facts"])},
            "adds passages by a rule that is not the task's to the text",
        ),
    ],
)
def test_an_endpoint_that_makes_other_text_of_events_is_not_published_to(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    old = Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS)
    known, made = catalogue(msgspec.structs.replace(old, **changed)), run()
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
    for name in ("mood", "mood-candidate"):
        with pytest.raises(Refusal, match=words):
            endpoint_for(publication, made, guidance, 1, known, name=name, anyway=False)
        endpoint_for(publication, made, guidance, 1, known, name=name, anyway=True)


def of_archive(template: str) -> Run:
    taken = Taken(endpoint="/shop/mood", days={"2026-01-01": 9}, versions={1: 9})
    return msgspec.structs.replace(run(), archived=Frozen(taken=taken, template=template, known_answers=True))


def test_archived_texts_are_of_the_template_of_the_endpoint_that_has_the_guidance(tmp_path: Path) -> None:
    framed = "Review: {text}"
    known = catalogue(
        Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS, input=InputRule(template=framed))
    )
    made = of_archive(framed)
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
    for name in ("mood", "mood-candidate"):
        assert endpoint_for(publication, made, guidance, 1, known, name=name, anyway=False).input.template == framed
    for other, there in ((of_archive("{text}"), known), (made, Catalogue()), (of_archive("Say: {text}"), known)):
        with pytest.raises(Refusal, match=r"train with the other data\.archive\.text"):
            endpoint_for(publication, other, guidance, 1, there, name="mood", anyway=False)


def test_agreement_with_a_model_does_not_say_that_something_is_better() -> None:
    events = [
        msgspec.structs.replace(one, metric="agreement") if isinstance(one, Scored | PromptScored) else one
        for one in EVENTS
    ]
    with pytest.raises(Refusal, match="nobody knows whether soft-prompt is better") as caught:
        choose_publication(events, run(), size=None, method=None, anyway=False)
    assert caught.value.code is FailureCode.NOT_BETTER
    always = run(publish=PublishRule(when="always"))
    assert choose_publication(events, always, size=None, method=None, anyway=False).scored.metric == "agreement"
    new, old = guided("new", (0.95, 0.93, 0.97)), guided("old", (0.8, 0.76, 0.84))
    agreeing = [
        msgspec.structs.replace(one, lineage=msgspec.structs.replace(one.lineage, metric="agreement"))
        for one in (new, old)
        if one.lineage is not None
    ]
    with pytest.raises(Refusal, match="nobody knows whether the candidate is better"):
        promote(*agreeing)
    assert promote(*agreeing, anyway=True).guidance == ["shop/new@1"]


def test_what_was_trained_with_passages_is_served_with_them(tmp_path: Path) -> None:
    rule = RetrievalRule(sets=["shop/facts"], passages=2)
    made = run(retrieval=rule)
    bare = Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS)
    same = msgspec.structs.replace(bare, retrieval=rule)
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    for known in (Catalogue(), catalogue(bare), catalogue(same)):
        guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
        candidate = endpoint_for(publication, made, guidance, 1, known, name="mood-candidate", anyway=False)
        assert candidate.retrieval == rule
        assert promoted(candidate, bare, catalogue(guidance, bare), anyway=True).retrieval == rule
    other = msgspec.structs.replace(bare, retrieval=RetrievalRule(sets=["shop/others"]))
    with pytest.raises(Refusal, match="a rule that is not the task's"):
        endpoint_for(publication, made, guidance, 1, catalogue(other), name="mood", anyway=False)


def test_an_endpoint_with_other_passages_is_not_compared_with(tmp_path: Path) -> None:
    task = run().task
    model = Model(namespace="public", name="small", source="nowhere", max_context_tokens=64)
    old = Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS)
    with_passages = msgspec.structs.replace(old, retrieval=RetrievalRule(sets=["shop/facts"]))
    store = ArtefactStore(str(tmp_path))
    for endpoint_now, there in ((old, True), (with_passages, False)):
        found = present_subject(catalogue(endpoint_now), task, model, store=store, cache=ArtefactCache(tmp_path))
        assert (found is not None) == there


def test_what_is_only_tried_does_not_reach_the_endpoints_targets(tmp_path: Path) -> None:
    old = Endpoint(namespace="shop", name="mood", model_size="small", output=LABELS, targets=["alerts"])
    stale = msgspec.structs.replace(old, name="mood-candidate")
    made = run()
    publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
    for known, name, targets in (
        (catalogue(old), "mood", ["alerts"]),
        (catalogue(old), "mood-candidate", []),
        (catalogue(old, stale), "mood-candidate", []),
        (catalogue(old), "mood-lora", []),
    ):
        guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
        endpoint = endpoint_for(publication, made, guidance, 1, known, name=name, anyway=False)
        assert endpoint.targets == targets


def test_what_an_endpoint_tells_of_its_labels_stays_with_the_temperature_of_the_new_guidance(tmp_path: Path) -> None:
    people = Choice(LABELS.labels, probabilities=True, min_confidence=0.8, below=DoubtfulTarget("people"))
    old = Endpoint(
        namespace="shop", name="mood", model_size="small", output=msgspec.structs.replace(people, label_temperature=3.0)
    )
    known, softening = catalogue(old), Softening(1.5, 0.2, 0.05)
    weighing = msgspec.structs.replace(people, below=None, min_confidence=0.6)
    for output, name, expected in (
        # The task was not evaluated with probabilities: that of other guidance does not hold for this one.
        (LABELS, "mood", people),
        (LABELS, "mood-candidate", msgspec.structs.replace(people, min_confidence=None, below=None)),
        (weighing, "mood", msgspec.structs.replace(weighing, label_temperature=1.5)),
    ):
        made = run(output=output)
        publication = choose_publication(EVENTS, made, size=None, method=None, anyway=False)
        if output is weighing:
            told = msgspec.structs.replace(publication.scored, softening=softening)
            publication = msgspec.structs.replace(publication, scored=told)
        guidance = guidance_for(publication, made, RunFolder(tmp_path), known)
        assert guidance.lineage is not None
        assert guidance.lineage.calibration_error == ([0.2, 0.05] if output is weighing else [])
        assert endpoint_for(publication, made, guidance, 1, known, name=name, anyway=False).output == expected


def test_a_text_prompt_takes_the_place_of_the_instruction(tmp_path: Path) -> None:
    made = run()
    publication = choose_publication(EVENTS, made, size=None, method="text-prompt", anyway=True)
    guidance = guidance_for(publication, made, RunFolder(tmp_path), Catalogue())
    assert (guidance.form, guidance.text, guidance.artefact) == ("text_prompt", "Better.", "")
    endpoint = endpoint_for(publication, made, guidance, 1, Catalogue(), name="mood", anyway=False)
    assert endpoint.instruction == ""
    assert endpoint.calibration == "auto", "as it was compared, once `auto` is settled"
    [_, settled_endpoint] = settled([guidance, endpoint], Catalogue())
    assert isinstance(settled_endpoint, Endpoint)
    assert settled_endpoint.calibration == automatic(LABELS, is_taught=False) is not None


# Promotion -----------------------------------------------------------------------------------------------------------


def guided(name: str, score: tuple[float, float, float], *, eval_data: str = DIGEST) -> Guidance:
    lineage = Lineage(
        run="r",
        method="lora",
        code="1",
        seed=1,
        data=DIGEST,
        eval_data=eval_data,
        metric="accuracy",
        score=list(score),
        over_bare=[0.1, 0.05, 0.15],
        rows=400,
    )
    return Guidance(
        namespace="shop", name=name, form="lora", artefact=DIGEST, model_fingerprint=DIGEST, lineage=lineage
    )


def endpoint(name: str, guidance: str) -> Endpoint:
    return Endpoint(namespace="shop", name=name, model_size="small", guidance=[f"shop/{guidance}"], output=LABELS)


def promote(new: Guidance, old: Guidance, *, anyway: bool = False) -> Endpoint:
    known = catalogue(new, old)
    present = msgspec.structs.replace(endpoint("mood", "old@1"), lane="batch")
    return promoted(endpoint("mood-candidate", "new@1"), present, known, anyway=anyway)


def test_a_candidate_that_is_better_by_more_than_the_interval_is_promoted() -> None:
    made = promote(guided("new", (0.95, 0.93, 0.97)), guided("old", (0.8, 0.76, 0.84)))
    assert (made.name, made.guidance, made.lane) == ("mood", ["shop/new@1"], "batch")


def test_what_becomes_of_doubtful_values_is_not_promoted() -> None:
    known = catalogue(guided("new", (0.95, 0.93, 0.97)), guided("old", (0.8, 0.76, 0.84)))
    weighing = Choice(LABELS.labels, probabilities=True)
    people = msgspec.structs.replace(weighing, min_confidence=0.8, below=DoubtfulTarget("people"))
    warm = msgspec.structs.replace(weighing, label_temperature=2.0)
    for present, candidate, expected in (
        (people, warm, msgspec.structs.replace(people, label_temperature=2.0)),
        (LABELS, warm, warm),
        (people, LABELS, people),
        (people, Choice(["other"]), Choice(["other"])),
    ):
        before = msgspec.structs.replace(endpoint("mood", "old@1"), output=present)
        tried = msgspec.structs.replace(endpoint("mood-candidate", "new@1"), output=candidate)
        assert promoted(tried, before, known, anyway=False).output == expected


def test_of_a_bare_model_that_is_always_right_no_method_is_better() -> None:
    perfect = [
        msgspec.structs.replace(one, value=1.0) if isinstance(one, Scored) and one.method == BARE else one
        for one in EVENTS
    ]
    with pytest.raises(Refusal, match=r"the bare model has all of these \d+ rows right: give more rows"):
        choose_publication(perfect, run(), size=None, method="lora", anyway=False)


def test_noise_is_not_promoted() -> None:
    new, old = guided("new", (0.82, 0.78, 0.86)), guided("old", (0.8, 0.76, 0.84))
    with pytest.raises(Refusal, match="does not beat the endpoint as it is") as caught:
        promote(new, old)
    assert caught.value.code is FailureCode.NOT_BETTER
    assert promote(new, old, anyway=True).guidance == ["shop/new@1"]


def test_scores_on_other_rows_do_not_compare() -> None:
    new = guided("new", (0.95, 0.93, 0.97), eval_data="sha256:" + "b" * 64)
    with pytest.raises(Refusal, match="on different rows and cannot be compared"):
        promote(new, guided("old", (0.8, 0.76, 0.84)))


def test_guidance_of_which_nothing_is_known_is_not_the_bare_model() -> None:
    old = msgspec.structs.replace(guided("old", (0.8, 0.76, 0.84)), lineage=None)
    with pytest.raises(Refusal, match="because its guidance is of no run: run the task again"):
        promote(guided("new", (0.95, 0.93, 0.97)), old)
    assert promote(guided("new", (0.95, 0.93, 0.97)), old, anyway=True).guidance == ["shop/new@1"]


def test_an_endpoint_that_is_not_there_yet_counts_as_the_bare_model() -> None:
    known = catalogue(guided("new", (0.95, 0.93, 0.97)))
    made = promoted(endpoint("mood-candidate", "new@1"), None, known, anyway=False)
    assert made.name == "mood"


def test_the_interval_of_a_difference() -> None:
    ours, theirs = guided("a", (0.9, 0.87, 0.92)).lineage, guided("b", (0.8, 0.76, 0.83)).lineage
    assert ours is not None
    assert theirs is not None
    low, high = 0.1 - (0.03**2 + 0.03**2) ** 0.5, 0.1 + (0.02**2 + 0.04**2) ** 0.5
    assert unpaired(ours, theirs) == pytest.approx([0.1, low, high])
