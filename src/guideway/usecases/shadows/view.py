"""What people are told of shadows: how far each is, and what is missing to a decision."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from aiokafka.errors import KafkaError

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.producers.client.client import split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.names.service_topics import owner_of_shadows
from guideway.schemas.services.shadow import ShadowFigures, ShadowRow
from guideway.schemas.wire import Undecodable
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.replay.folder import Plan
from guideway.usecases.shadows import ending
from guideway.usecases.shadows.book import Book
from guideway.usecases.shadows.declared import Idle, declared_or_idle, declaring, present

_ENDED: Final = {
    "compared": "compared, as was asked",
    "promoted": "its candidate was promoted",
    "not_promoted": "not promoted",
    "stopped": "stopped before it had all rows",
}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The shadow of one endpoint."""

    address: str
    """`/NAMESPACE/ENDPOINT`"""
    stage: Literal["waits", "begins", "running", "promoting", "ended"]
    """`waits`: there is nothing to compare. `begins`: no `guideway shadows` has begun it yet."""
    rows: int = 0
    """That both have answered."""
    of: int = 0
    """How many are wanted."""
    changes: dict[str, str] = {}
    """What is new."""
    promote: str = "never"
    outcome: str | None = None
    version: int | None = None
    """The endpoint's: that which is compared, or where it is promoted the new one."""
    why: str = ""
    """Why it waits, was stopped, or is not promoted; or what keeps it up."""
    figures: ShadowFigures | None = None

    @property
    def told(self) -> str:
        """In a sentence."""
        match self.stage:
            case "waits":
                return f"waits: {self.why}"
            case "begins":
                return f"is not begun: {self.why}"
            case "running" | "promoting":
                held_up = f"; held up: {self.why}" if self.why else ""
                return f"{self.rows} of {self.of} rows; missing to a decision: {self.of - self.rows}{held_up}"
        said = _ENDED[self.outcome or "compared"]
        version = f": it is version {self.version} of the endpoint" if self.outcome == "promoted" else ""
        return f"ended with {self.rows} of {self.of} rows: {said}{version}{f': {self.why}' if self.why else ''}"


async def shadows_of(settings: Settings, namespace: str | None = None) -> list[View]:
    """Those of the endpoints of a namespace, or of all that this user may read.

    Raises Refusal(broker_unreachable | invalid_setting).
    """
    catalogue, book = await catalogue_of(settings), await _book(settings, namespace)
    found = declaring(catalogue, [namespace] if namespace is not None else [])
    return [viewed(catalogue, book, *one) for one in sorted({*found, *book.endpoints()})]


async def shadow_of(settings: Settings, address: str, *, with_figures: bool = True) -> View:
    """That of one endpoint. with_figures: also of the rows that there are before it ends, which takes a while.

    Raises Refusal: as `shadows_of`; unknown_endpoint where it declares none and has had none.
    """
    namespace, name = split_address(address)
    catalogue, book = await catalogue_of(settings), await _book(settings, namespace)
    if book.state(namespace, name) is None and declared_or_idle(catalogue, namespace, name) is None:
        what = "declares no `shadow`" if present(catalogue, namespace, name) else "is not in the catalogue"
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"/{namespace}/{name} {what}")
    view = viewed(catalogue, book, namespace, name)
    plan = declared_or_idle(catalogue, namespace, name)
    state = book.state(namespace, name)
    if (
        with_figures
        and state is not None
        and view.stage == "running"
        and view.rows
        and isinstance(plan, Plan)
        and plan.id == state.shadow
    ):
        figures, _ = await ending.compared(plan, list[ShadowRow](book.rows(namespace, name, plan.id)))
        return msgspec.structs.replace(view, figures=figures)
    return view


def viewed(catalogue: Catalogue, book: Book, namespace: str, name: str) -> View:
    """What is known of this endpoint's shadow. Pure."""
    what, state = declared_or_idle(catalogue, namespace, name), book.state(namespace, name)
    address = endpoint_address(namespace, name)
    if (
        isinstance(what, Plan)
        and (state is None or state.stage == "ended")
        and (state is None or state.shadow != what.id)
    ):
        return View(
            address=address,
            stage="begins",
            of=what.rows,
            changes=what.question.changes,
            promote=what.shadow.promote if what.shadow is not None else "never",
            version=what.question.version,
            why="does `guideway shadows` run?",
        )
    if state is None:
        return View(address=address, stage="waits", why=what.why if isinstance(what, Idle) else "")
    rows = len(book.rows(namespace, name, state.shadow))
    if state.stage == "ended":
        rows = state.figures.rows if state.figures is not None else 0
    return View(
        address=address,
        stage=state.stage,
        rows=rows,
        of=state.rows,
        changes=state.changes,
        promote=state.promote,
        outcome=state.outcome,
        version=state.version,
        why=state.why or state.trouble,
        figures=state.figures,
    )


async def _book(settings: Settings, namespace: str | None) -> Book:
    """What the topics hold now."""
    cluster, book = settings.answering_cluster(), Book()

    def is_ours(topic: str) -> bool:
        owner = owner_of_shadows(topic)
        return owner is not None and namespace in (None, owner)

    def take(records: Any) -> None:
        for one in records:
            try:
                book.absorb(one.topic, one.key, one.value)
            except Undecodable:
                continue

    async with TopicReader(cluster, "shadows", is_ours, take) as reader:
        try:
            if await reader.find():
                await reader.catch_up()
        except (KafkaError, TimeoutError) as error:
            raise unreachable(cluster, error, connected=True) from None
    return book
