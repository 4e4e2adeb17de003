"""One namespace's costly templates delay its own events only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from guideway.producers.marshalling import rendering
from guideway.producers.marshalling.marshal import Rendered, render
from guideway.producers.marshalling.template import Template, template_of
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint

MakeEndpoint = Callable[..., Endpoint]


async def test_others_are_rendered_while_one_namespace_renders(
    make_endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    at_a_time: list[int] = []
    inside = 0

    def slow(event: Event, endpoint: Endpoint) -> Rendered:
        nonlocal inside
        if endpoint.namespace == "greedy":
            inside += 1
            at_a_time.append(inside)
            assert may_go_on.wait(30)
            inside -= 1
        return render(event, endpoint)

    monkeypatch.setattr(rendering, "render", slow)
    costly = InputRule(template="{to_string(text)}")
    greedy = make_endpoint(namespace="greedy", input=costly)
    modest = make_endpoint(namespace="modest", input=costly)
    plain = make_endpoint(namespace="plain")
    renders = rendering.Rendering()
    flood = [asyncio.create_task(renders.render(Event(id=str(n), content="x"), greedy, "greedy")) for n in range(20)]
    await asyncio.sleep(0)
    assert (await renders.render(Event(id="e", content="hello"), modest, "modest")).text == "hello"
    assert (await renders.render(Event(id="e", content="hello"), plain, "plain")).text == "hello"
    assert not any(task.done() for task in flood)
    may_go_on.set()
    assert {one.text for one in await asyncio.gather(*flood)} == {"x"}
    assert max(at_a_time) == 1


async def test_a_refusal_comes_through(make_endpoint: MakeEndpoint) -> None:
    rule = InputRule(fields={"list": Field(type="array")}, template="{length(list[?@ == `1`])}", text_field=None)
    event = Event(id="e", content={"list": [1] * 100_000})
    with pytest.raises(Refusal) as caught:
        await rendering.Rendering().render(event, make_endpoint(input=rule), "team")
    assert caught.value.code is FailureCode.WRONG_FIELD
    assert "cost more" in caught.value.message


async def test_a_long_template_is_parsed_beside_the_others(
    make_endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def noted(endpoint: Endpoint) -> Template:
        threads.add(threading.current_thread())
        return template_of(endpoint)

    monkeypatch.setattr(rendering, "template_of", noted)
    endpoint = make_endpoint(input=InputRule(template="{text}" + " " * 3000))
    assert (await rendering.Rendering().render(Event(id="e", content="x"), endpoint, "team")).text.strip() == "x"
    assert threading.main_thread() not in threads


async def test_a_template_that_is_none_is_told(make_endpoint: MakeEndpoint) -> None:
    """Whoever may write a catalogue may leave `apply` out."""
    endpoint = make_endpoint(input=InputRule(template="{text"))
    with pytest.raises(Refusal, match="input\\.template: template has a single") as caught:
        await rendering.Rendering().render(Event(id="e", content="x"), endpoint, "team")
    assert caught.value.code is FailureCode.WRONG_FIELD
