"""Whether a request is what the endpoint service makes of an event, by the worker's own catalogue. Pure.

Whoever may write a request topic could ask for anything. So nothing is believed that the catalogue does not say: which
endpoint it is, who may call it, its instruction, guidance, retrieval sets, output and bounds, and where replies may go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.targets.recipients import target_topic
from guideway.schemas.calibration import CalibratedBy, Calibration
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.names.topics import Lane, is_reply_topic_of
from guideway.schemas.output import WordLabels
from guideway.schemas.request import LAST_DEADLINE_MS, GuidanceRef, Part, Request
from guideway.schemas.retrieval import RetrievalRule, SetRef

MAX_ID_CHARS: Final = 200
_KEPT: Final = 4096
"""Versions of endpoints, each with one caller, of which a request that agreed is kept."""


class Forged(Refusal):
    """No endpoint service has made this request. Nobody can say whose it is, so nobody is replied to."""

    def __init__(self, what: str, code: FailureCode = FailureCode.NOT_ALLOWED) -> None:
        super().__init__(
            code,
            f"the request does not agree with the catalogue in its {what}: look who else writes to this topic",
        )


class Use(NamedTuple):
    """Guidance or a set, as an endpoint names it."""

    name: str
    """`NAMESPACE/NAME`"""
    version: int | None
    """None: whichever was current when the request was made."""
    factor: float
    """Scale or weight."""

    def is_of(self, name: str, version: int, factor: float) -> bool:
        """Whether this reference is what is meant."""
        return name == self.name and version in {self.version or version} and factor == self.factor


class Facts(NamedTuple):
    """What the requests of one version of an endpoint must agree with."""

    endpoint: Endpoint
    guidance: tuple[Use, ...]
    brings: Collection[str]
    """Guidance and sets that an event may name, `NAMESPACE/NAME[@VERSION]`."""
    sets: tuple[Use, ...]
    brings_sets: Collection[str]
    calibrated_by: CalibratedBy | None
    targets: frozenset[str]
    """Topics, of other namespaces too. Whether these still accept its results is asked when the reply is published."""

    @staticmethod
    def of(endpoint: Endpoint) -> Facts:
        rule = endpoint.retrieval
        return Facts(
            endpoint,
            tuple(map(_use, endpoint.guidance)),
            frozenset(endpoint.request_guidance),
            tuple(map(_use, rule.sets)) if rule is not None else (),
            frozenset(rule.request_sets) if rule is not None else frozenset(),
            endpoint.calibration.method if isinstance(endpoint.calibration, Calibration) else None,
            frozenset(target_topic(one, endpoint.namespace) for one in endpoint.topic_targets),
        )


class Agreed(NamedTuple):
    """A request that agreed with the catalogue as it was then. Those like it agree as well, until that changes."""

    catalogue: Catalogue
    changes: int
    lane: Lane
    request: Request
    facts: Facts
    brought: list[str]

    def holds_for(self, request: Request, lane: Lane, catalogue: Catalogue) -> bool:
        """Whether this request differs only in what `_check_own` looks at."""
        same = self.request
        return (
            self.catalogue is catalogue
            and self.changes == catalogue.changes
            and self.lane == lane
            and request.guidance == same.guidance
            and request.output == same.output
            and request.calibration == same.calibration
            # What is looked up differs from one request to the next.
            and request.retrieval is same.retrieval is None
            and len(request.parts) == len(same.parts)
            and (len(same.parts) == 1 or request.parts[:-1] == same.parts[:-1])
        )


class RequestCheck:
    """Checks the requests of one model size. It keeps the last that agreed, of each version of an endpoint."""

    def __init__(self, size: str) -> None:
        self._size = size
        self._agreed: dict[tuple[str, str, int, str | None], Agreed] = {}

    def brought(self, request: Request, lane: Lane, catalogue: Catalogue) -> list[str]:
        """The guidance that its event brought, `NAMESPACE/NAME@VERSION`, of a request that agrees with the catalogue.

        Raises: Forged, where no endpoint service can have made it. Refusal where the catalogue has changed since:
        `unknown_endpoint` if its version was deleted, `not_allowed` if the caller may not call it any more,
        `guidance_unknown` or `guidance_forbidden` if guidance was deleted or is no longer shared.
        """
        key = (request.namespace, request.endpoint, request.endpoint_version, request.caller)
        agreed = self._agreed.get(key)
        if agreed is not None and agreed.holds_for(request, lane, catalogue):
            if request.reply_to != agreed.request.reply_to:
                _check_addresses(request, agreed.facts.targets)
            _check_own(request, agreed.facts.endpoint)
            return agreed.brought
        facts = self._facts_of(request, catalogue)
        _check_addresses(request, facts.targets)
        _check_own(request, facts.endpoint)
        brought = self._brought(request, lane, facts, catalogue)
        if len(self._agreed) >= _KEPT and key not in self._agreed:
            del self._agreed[next(iter(self._agreed))]
        self._agreed[key] = Agreed(catalogue, catalogue.changes, lane, request, facts, brought)
        return brought

    def _facts_of(self, request: Request, catalogue: Catalogue) -> Facts:
        key = (request.namespace, request.endpoint, request.endpoint_version)
        try:
            return Facts.of(catalogue.endpoint_at(*key))
        except Refusal:
            if not 1 <= key[2] <= catalogue.last_given(Identity("endpoint", key[0], key[1])):
                raise Forged("endpoint") from None
            raise

    def _brought(self, request: Request, lane: Lane, facts: Facts, catalogue: Catalogue) -> list[str]:
        endpoint = facts.endpoint
        _agree("model size", endpoint.model_size == self._size)
        # Any call may wait; none may go before others.
        _agree("lane", lane in ("batch", endpoint.lane))
        _agree("caller", request.caller != request.namespace)
        _agree("output", request.output == endpoint.output)
        instructions = _instructions(request.parts, endpoint)
        texts, refs = _brought(instructions, request.guidance, facts)
        sets = _brought_sets(request, facts)
        _agree("calibration", request.calibration == (None if texts or refs or sets else facts.calibrated_by))
        _check_texts(instructions, endpoint.namespace, catalogue)
        if request.caller is not None:
            # What an event brings, its caller may use as well.
            called_endpoint(catalogue, request.namespace, request.endpoint, caller=request.caller)
            for name in [*(part.source for part in texts), *map(str, refs)]:
                catalogue.guidance(name, for_namespace=request.caller)
            for one in sets:
                catalogue.retrieval_set(str(one), for_namespace=request.caller)
        return [*map(str, refs), *(part.source for part in texts)]


def _agree(what: str, agrees: bool) -> None:
    if not agrees:
        raise Forged(what)


def _check_addresses(request: Request, targets: Collection[str]) -> None:
    """Replies go to topics of the caller, and copies to those of the endpoint's targets; none of others' requests."""
    if not is_reply_topic_of(request.reply_to[0].topic, request.calling_namespace):
        raise Forged("reply address", FailureCode.REPLY_ADDRESS_REFUSED)
    allowed = targets if request.caller is None else ()
    _agree("reply addresses", all(one.topic in allowed for one in request.reply_to[1:]))


def _check_own(request: Request, endpoint: Endpoint) -> None:
    """What each request has of its own."""
    given = request.parts[-1] if request.parts else None
    if given is None or given.kind != "input" or given.source != "caller":
        raise Forged("input")
    _agree("generation", not endpoint.request_generation.beyond(request.generation, endpoint.generation))
    _agree("length", len(given.text) <= endpoint.max_text_chars)
    _agree("reply message", request.reply_message in {None, REPLY_MESSAGE, endpoint.output_message or None})
    _agree("words", not request.words or isinstance(endpoint.output, WordLabels))
    _agree("id", len(request.id) <= MAX_ID_CHARS and request.id.isprintable())
    _agree("deadline", request.deadline_ms is None or 0 < request.deadline_ms <= LAST_DEADLINE_MS)


def _instructions(parts: Sequence[Part], endpoint: Endpoint) -> Sequence[Part]:
    """The instruction parts that are guidance, after the endpoint's own instruction."""
    instructions = [*parts[:-1]]
    if endpoint.instruction:
        own = Part(kind="instruction", source="endpoint", text=endpoint.instruction)
        _agree("instruction", instructions[:1] == [own])
        del instructions[:1]
    _agree("parts", all(part.kind == "instruction" for part in instructions))
    return instructions


def _brought(
    instructions: Sequence[Part], guidance: Sequence[GuidanceRef], facts: Facts
) -> tuple[list[Part], list[GuidanceRef]]:
    """The text prompts and the trained guidance that the event brought, after the endpoint's own in their order."""
    texts, refs = list(instructions), list(guidance)
    for use in facts.guidance:
        if texts and use.is_of(*_reference(texts[0].source), use.factor):
            del texts[0]
        elif refs and use.is_of(f"{refs[0].namespace}/{refs[0].name}", refs[0].version, refs[0].scale):
            del refs[0]
        else:
            raise Forged("guidance")
    for name, version in [*(_reference(part.source) for part in texts), *_versions(refs)]:
        _agree("guidance", _is_listed(name, version, facts.brings))
    _agree("guidance", all(ref.scale == 1 for ref in refs))
    return texts, refs


def _brought_sets(request: Request, facts: Facts) -> list[SetRef]:
    """The sets that the event brought, after the endpoint's own in their order."""
    rule, wanted = facts.endpoint.retrieval, request.retrieval
    if wanted is None:
        _agree("retrieval sets", not facts.sets)
        return []
    if rule is None:
        raise Forged("retrieval sets")
    own, brought = wanted.sets[: len(facts.sets)], wanted.sets[len(facts.sets) :]
    _agree("retrieval sets", len(own) == len(facts.sets))
    for use, ref in zip(facts.sets, own, strict=True):
        _agree("retrieval sets", use.is_of(f"{ref.namespace}/{ref.name}", ref.version, ref.weight))
    for ref in brought:
        listed = _is_listed(f"{ref.namespace}/{ref.name}", ref.version, facts.brings_sets)
        _agree("retrieval sets", listed and ref.weight == 1)
    _agree("retrieval", wanted == rule.of(wanted.sets, wanted.query, wanted.filter))
    _agree("filter", _is_within([one.key for one in wanted.filter], rule))
    return brought


def _is_within(keys: list[str], rule: RetrievalRule) -> bool:
    """Whether these are some of the rule's filters, each once."""
    return len({*keys}) == len(keys) and rule.filter.keys() >= {*keys}


def _check_texts(instructions: Sequence[Part], owner: str, catalogue: Catalogue) -> None:
    for part in instructions:
        _, guidance = catalogue.guidance(part.source, for_namespace=owner)
        _agree("instruction", part.text == guidance.text)


def _use(written: str) -> Use:
    name, _, factor = written.partition("*")
    name, _, version = name.partition("@")
    return Use(name, int(version) if version else None, float(factor or 1))


def _reference(source: str) -> tuple[str, int]:
    """(name, version) of `NAMESPACE/NAME@VERSION`; version 0, which is none, where it is no such reference."""
    name, _, version = source.partition("@")
    return name, int(version) if version.isascii() and version.isdigit() and len(version) < 10 else 0


def _versions(refs: Sequence[GuidanceRef]) -> Iterator[tuple[str, int]]:
    return ((f"{ref.namespace}/{ref.name}", ref.version) for ref in refs)


def _is_listed(name: str, version: int, listed: Collection[str]) -> bool:
    return name in listed or f"{name}@{version}" in listed
