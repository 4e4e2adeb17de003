"""What comes of a request, as records: the typed reply, or a refusal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from guideway.catalogue.access import OF_THE_REQUEST, told_to_others
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.protobuf.message_type import MessageType
from guideway.catalogue.protobuf.writing import written_value
from guideway.catalogue.targets.leaving import leaving
from guideway.catalogue.targets.recipients import target_topic
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.replies import failed, reply_in, reply_records
from guideway.schemas.calibration import tempered
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.output import Boolean, Choice, OutputRule, doubtful_target
from guideway.schemas.partial import Streamed
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Alternative, Completed, FailedSample, Sample, TokenLogprob, Usage
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.retrieval import Citation
from guideway.workers.calibration.calibrations import guidance_of
from guideway.workers.messages.from_engine import Finished, Generated, TextToken
from guideway.workers.output_parser import read_value


def refused(request: Request, record: Record, refusal: Refusal, *, keep: bool = False) -> list[Outgoing]:
    """The failed reply, to the caller only. keep: add a dead letter too, because somebody has to look into it."""
    reply = failed(request.id, request.namespace, request.endpoint, _told(request, refusal))
    letters = [dead_letter(record, refusal.code, refusal.message)] if keep else []
    return [*reply_records(reply, request.reply_to[:1], record, message=request.reply_message), *letters]


def answered(
    request: Request, record: Record, completed: Completed, addresses: Sequence[ReplyAddress], own: MessageType | None
) -> list[Outgoing]:
    """The reply to the caller, whose address is the first, in the form that it wants, and to the others.

    own: the endpoint's message, if that is what the caller wants. Raises Refusal(output_unreadable) for a result that
    does not fit into it.
    """
    written = b""
    if own is not None:
        try:
            written = written_value(completed.value, request.output, own)
        except ValueError as error:
            raise Refusal(
                FailureCode.OUTPUT_UNREADABLE,
                f"the result does not fit into message {own.name} ({error}): ask for {REPLY_MESSAGE}, or have "
                "the message or the output rule changed",
            ) from None
    return reply_records(completed, addresses, record, message=request.reply_message, written=written)


def leaving_of(
    outgoing: Sequence[Outgoing],
    request: Request,
    record: Record,
    catalogue: Catalogue,
    completed: Completed | None = None,
) -> list[Outgoing]:
    """What webhooks and archive of the endpoint learn of the reply in `outgoing`; of what others called, nothing.

    completed: the result, of which the caller may have a message of the endpoint's own.
    """
    found = catalogue.get(Identity("endpoint", request.namespace, request.endpoint), request.endpoint_version)
    if request.caller is not None or not isinstance(found, Endpoint) or not found.leaves:
        return []
    # Dead letters have the headers of the record, and may seem to have a reply's.
    replies = (out for out in outgoing if out.topic == request.reply_to[0].topic)
    reply = next((out for out in replies if any(name == header.STATUS for name, _ in out.headers)), None)
    if reply is None:
        return []
    # As the caller gets it: a result that is too large has become a failure.
    is_whole = completed is not None and (header.STATUS, b"completed") in reply.headers
    told = completed if completed is not None and is_whole else reply_in(reply)
    return leaving(told, found, request.endpoint_version, record, text=request.parts[-1].text)


def _told(request: Request, refusal: Refusal) -> Refusal:
    """What the request's caller is told of a refusal."""
    return refusal if request.caller is None else told_to_others(refusal, request.namespace, verbatim=OF_THE_REQUEST)


def completed_reply(
    request: Request,
    finished: Finished,
    fingerprint: str,
    citations: list[Citation] | None = None,
    *,
    brought: Sequence[str] = (),
    partials: Streamed | None = None,
) -> Completed:
    """The typed reply: the samples that are complete, and for each other sample why it failed.

    brought: the guidance that its event brought; a caller of another namespace is told of no other.
    partials: how many pieces of the texts were told.

    Raises: Refusal, with the most frequent code of the samples, if none is complete.
    """
    samples: list[Sample] = []
    failed_samples: list[FailedSample] = []
    for index, one in enumerate(finished.samples):
        try:
            samples.append(_sample(request, one))
        except Refusal as refusal:
            told = _told(request, refusal)
            failed_samples.append(FailedSample(sample=index, code=told.code, message=told.message))
    if not samples:
        raise _of_all(failed_samples)
    return Completed(
        id=request.id,
        namespace=request.namespace,
        endpoint=request.endpoint,
        endpoint_version=request.endpoint_version,
        samples=samples,
        usage=Usage(prompt_tokens=finished.prompt_tokens, output_tokens=finished.output_tokens),
        guidance=guidance_of(request) if request.caller is None else [*brought],
        model_fingerprint=fingerprint,
        calibration=request.calibration,
        citations=citations,
        failed_samples=failed_samples or None,
        partials=partials,
    )


def _sample(request: Request, one: Generated) -> Sample:
    if one.failure is not None:
        raise Refusal(one.failure.code, one.failure.message)
    try:
        value = read_value(one.text, request.output, request.words)
    except ValueError as error:
        raise Refusal(
            FailureCode.INTERNAL_ERROR, f"the result does not have its declared form ({error}): report it"
        ) from None
    told = None if one.probabilities is None else tempered(one.probabilities, _temperature(request.output))
    doubtful, value = _weighed(request, one.text, told, value)
    return Sample(
        value=value,
        text=one.text,
        finish_reason=one.finish_reason,
        probabilities=told,
        doubtful=doubtful,
        logprobs=None if one.tokens is None else [_told_token(token) for token in one.tokens],
    )


def _temperature(rule: OutputRule) -> float:
    return rule.label_temperature if isinstance(rule, Choice | Boolean) else 1.0


def _weighed(request: Request, text: str, told: Mapping[str, float] | None, value: Any) -> tuple[bool, Any]:
    """Whether the value is doubtful, and what is told as the value. Raises: Refusal `not_confident`, where that is
    what becomes of doubtful values.
    """
    rule = request.output
    if not isinstance(rule, Choice | Boolean) or rule.min_confidence is None or told is None:
        return False, value
    if (probability := told[text]) >= rule.min_confidence:
        return False, value
    if rule.below == "failed":
        raise Refusal(
            FailureCode.NOT_CONFIDENT,
            f"{text!r} has a probability of {probability:.6g}, and the endpoint answers from "
            f"{rule.min_confidence:g} on: send a clearer text, or let a person decide",
        )
    return True, value if doubtful_target(rule) is not None else None


def _told_token(token: TextToken) -> TokenLogprob:
    top = [Alternative(text=text, logprob=logprob) for text, logprob in token.top]
    return TokenLogprob(text=token.text, logprob=token.logprob, top=top)


def addresses_of(request: Request, completed: Completed) -> list[ReplyAddress]:
    """Where the reply goes: the caller and the targets, and the endpoint for doubtful values, where one is doubtful.

    As targets do, that endpoint gets nothing of what another namespace has called.
    """
    target = doubtful_target(request.output)
    if target is None or request.caller is not None or not any(one.doubtful for one in completed.samples):
        return request.reply_to
    return [*request.reply_to, ReplyAddress(topic=target_topic(target, request.namespace))]


def _of_all(failed_samples: Sequence[FailedSample]) -> Refusal:
    """The refusal of a request all of whose samples failed."""
    [(code, _)] = Counter(one.code for one in failed_samples).most_common(1)
    message = next(one.message for one in failed_samples if one.code is code)
    several = f"none of {len(failed_samples)} samples is whole: " if len(failed_samples) > 1 else ""
    return Refusal(code, f"{several}{message}")
