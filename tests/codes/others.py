"""Failures that no event meets: of commands, of the studio, and of engines, provoked where they are found."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import torch
from peft import PrefixTuningConfig, get_peft_model
from tests.codes.case import Case, Provoke
from tests.codes.end_to_end import EndToEnd
from tests.training.data.test_examples import rows, task
from tests.training.publishing.test_decision import EVENTS, run
from tests.training.sets.test_documents import pdf
from tests.workers.engine.conftest import base_of, tiny_llama, tiny_tokenizer
from tests.workers.engine.families import LLAMA_LIKE, tiny
from tests.workers.engine.guidance.test_prefix_tuning import _LATENT

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.routing import router_of
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.probe import require_broker
from guideway.producers.checks.check import faults
from guideway.producers.intake.quotas import Quotas
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.outcome import Answer, Dead, Outcome, next_step
from guideway.producers.targets.webhooks.sender import Sender
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.web_address import web_address
from guideway.schemas.manifests import Model
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.services.leaving import DELAYS_S, Delivery
from guideway.settings import Settings
from guideway.training.data.examples import read_examples
from guideway.training.publishing.decision import choose_publication
from guideway.training.sets.document import DocumentFields
from guideway.training.sets.documents import read_documents
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.prefix_tuning import PrefixTuning
from guideway.workers.engine.model.model_kind import check_kind
from guideway.workers.engine_client import EngineClient
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.to_engine import Admit, EngineSettings

C: Final = FailureCode
_FAKE_ENGINE = Path(__file__).parents[1] / "workers" / "fake_engine.py"
_REQUEST = Request(
    id="r",
    namespace="shop",
    endpoint="parcel",
    endpoint_version=1,
    parts=[Part(kind="input", source="caller", text="die")],
    guidance=[],
    output=Text(),
    words=[],
    generation=Generation(max_tokens=4),
    reply_to=[ReplyAddress(topic="gw.shop.parcel.out.v1")],
    deadline_ms=None,
)


def here(do: Callable[[Path], Any]) -> Provoke:
    """Does something in an empty folder that is refused."""

    async def provoke(e2e: EndToEnd) -> Refusal:
        with tempfile.TemporaryDirectory() as folder:
            return _refusal(lambda: do(Path(folder)))

    return provoke


def _refusal(do: Callable[[], Any]) -> Refusal:
    try:
        came = do()
    except Refusal as refusal:
        return refusal
    raise AssertionError(f"it was done: {came!r:.100}")


def manifest(text: str, remedy: str) -> Case:
    def do(folder: Path) -> None:
        given = "kind: endpoint/v1, namespace: shop, name: mood, model_size: small"
        (folder / "mood.yaml").write_text(f"{{{given}, {text}}}")
        small = Model(namespace="public", name="small", source="nowhere", max_context_tokens=1024)
        if found := faults([Source(folder, small), *read_manifests(folder / "mood.yaml")], Catalogue()):
            raise Faulty(found)

    return Case(
        code=C.INVALID_MANIFEST,
        example=f"`guideway apply` of an endpoint with `{text}`",
        remedy=remedy,
        provoke=here(do),
    )


def documents(code: FailureCode, files: dict[str, bytes], example: str, remedy: str) -> Case:
    def do(folder: Path) -> list[Any]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return [*read_documents([folder / name for name in files], DocumentFields())]

    return Case(code=code, example=f"`guideway sets create` of {example}", remedy=remedy, provoke=here(do))


def _of_a_latent_model(folder: Path) -> PrefixTuning:
    tokenizer = tiny_tokenizer()
    made = get_peft_model(tiny_llama(tokenizer), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    made.save_pretrained(str(folder))
    return PrefixTuning.load(folder, tiny("deepseek_v3", tokenizer, **{**LLAMA_LIKE, **_LATENT}))


def _examples(folder: Path) -> object:
    lines = [*rows(9), {"text": " ", "label": "good"}]
    (folder / "mood.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_examples(task("mood.jsonl"), folder)


def _no_numbers(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    engine = Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)
    model.get_input_embeddings().weight[tokenizer.encode("d")[0]] = torch.nan
    engine.add(Admit(id="r", request=_REQUEST, artefacts=[]))
    while engine.has_work:
        for message in engine.step(0.0):
            if isinstance(message, Refused):
                raise Refusal(message.code, message.message)


def _of_another(folder: Path) -> object:
    return called_endpoint(Catalogue(), "reviews", "sentiment", caller="shop")


def _no_number(folder: Path) -> Settings:
    return Settings.from_environ({"GUIDEWAY_ARTEFACT_CACHE_BYTES": "ten", "GUIDEWAY_HOME": str(folder)})


async def _deadly(e2e: EndToEnd) -> Refusal:
    model = Model(namespace="public", name="small", source="fine")
    program = (sys.executable, str(_FAKE_ENGINE))
    async with EngineClient(model, EngineSettings(), program=program) as link:
        return await _awaited(link.run(_REQUEST, []))


async def _awaited(work: Awaitable[object]) -> Refusal:
    try:
        await work
    except Refusal as refusal:
        return refusal
    raise AssertionError("it was done")


def _beyond_its_quota(folder: Path) -> None:
    limits = Namespace(namespace="public", name="shop", requests_per_minute=2, over_limit="refuse")
    quotas = Quotas(lambda _: limits)
    for now in (0.0, 5.0, 20.0):
        quotas.request("shop", 0, now)


def _speaks_tls(folder: Path) -> None:
    """A broker that wants TLS answers a plain request by an alert."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(bytes.fromhex("15030300020228"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            require_broker(Cluster(f"127.0.0.1:{server.getsockname()[1]}"))
        finally:
            thread.join(10)


def _given_up(outcome: Outcome) -> None:
    tried = Delivery(webhook="crm", id=f"msg_{'0' * 32}", since_ms=0, payload="{}", attempts=len(DELAYS_S) - 1)
    if isinstance(step := next_step(outcome, tried, now_ms=0, chance=0), Dead):
        raise step.refusal


async def _not_let_out(_e2e: EndToEnd) -> Refusal:
    address = web_address("https://hooks.example.com/in")
    outcome = await Sender(egress_of("*.example.org")).post(address, {}, b"", timeout_s=1)
    return _refusal(lambda: _given_up(outcome))


OTHERS: Final = [
    Case(
        code=C.QUOTA_EXCEEDED, example="the third request in a minute of a namespace that may have two",
        remedy="the caller: as long as the message says; or the platform: its limits",
        provoke=here(_beyond_its_quota),
    ),
    Case(
        code=C.GUIDANCE_UNSUPPORTED, example="a prefix on a model of the type `deepseek_v3`",
        remedy="its owner: another form of guidance, or another model size", provoke=here(_of_a_latent_model),
    ),
    documents(C.DOCUMENT_UNREADABLE, {"a.txt": b"Gr\xfc\xdfe"}, "`a.txt` in Windows-1252", "name its encoding"),
    documents(C.DOCUMENT_UNREADABLE, {"a.csv": b"id,body\n1,Hello\n"}, "`a.csv`: `id,body`", "name the text column"),
    documents(C.DOCUMENT_EMPTY, {"a.pdf": pdf(b"")}, "`a.pdf`, scanned", "run character recognition over it"),
    documents(
        C.DOCUMENT_TOO_LARGE, {"a.jsonl": b'{"text": "%s"}' % (b"x" * 9 * 2**20)}, "`a.jsonl` with a line of 9 MiB",
        "split the text over rows",
    ),
    documents(
        C.DUPLICATE_ID, {"a.jsonl": b'{"id": "x", "text": "One."}\n{"id": "x", "text": "Two."}\n'},
        "`a.jsonl` with the id `x` twice", "give each its own id",
    ),
    Case(
        code=C.WEBHOOK_FAILED, example="a result for a webhook whose receiver answers 500 to every attempt",
        remedy="mend the receiver, then `guideway dlq replay gw.NAMESPACE.deliveries.v1`",
        provoke=here(lambda _: _given_up(Answer(500))),
    ),
    Case(
        code=C.WEBHOOK_FAILED, example="a result for a webhook whose receiver has once answered 410",
        remedy="change the webhook's manifest, then replay", provoke=here(lambda _: _given_up(Answer(410))),
    ),
    Case(
        code=C.EGRESS_REFUSED, example="a result for a webhook at `https://hooks.example.com`, which is not listed",
        remedy="the platform: list the host where `guideway targets` runs, then replay", provoke=_not_let_out,
    ),
    Case(
        code=C.INVALID_DATA, example='`guideway studio run`, whose tenth row is `{"text": " ", "label": "good"}`',
        remedy="correct or remove the row", provoke=here(_examples),
    ),
    Case(
        code=C.NOT_BETTER, example="`guideway studio publish mood.yaml`, where chance may explain the lead",
        remedy="more examples, another method; or publish it all the same",
        provoke=here(lambda _: choose_publication(EVENTS, run(), size=None, method="lora", anyway=False)),
    ),
    Case(
        code=C.UNSUPPORTED_MODEL, example="`guideway apply` of a model whose `config.json` says `model_type: bloom`",
        remedy="operators: the model's `source`", provoke=here(lambda _: check_kind({"model_type": "bloom"})),
    ),
    Case(
        code=C.ENGINE_FAILED, example="an event of which the engine process dies, three times",
        remedy="change its text, schema or guidance; operators: the worker's log; report it", provoke=_deadly,
    ),
    Case(
        code=C.ENGINE_FAILED, example="an event whose text the model's weights make no number of",
        remedy="operators: the model's `dtype` and its files", provoke=here(_no_numbers),
    ),
    manifest(
        "output: {type: json, schema: {type: object, propertys: {a: {type: integer}}}}", "correct the keyword",
    ),
    manifest("output: {type: text}, generation: {max_tokens: 2048}", "lower it, or use a size of longer context"),
    manifest("input: {template: '{questoin}'}, output: {type: text}", "correct the name"),
    manifest("output: {type: txt}", "correct the value"),
    Case(
        code=C.NOT_ALLOWED,
        example="namespace `shop` calls `/reviews/sentiment`, which does not let it, or is not there",
        remedy="correct the address; the endpoint's owner: `access`", provoke=here(_of_another),
    ),
    Case(
        code=C.NO_ROUTE,
        example="an event on `gw.shop.call.v1` without the header `endpoint`, and `shop` has no router",
        remedy="name the endpoint, or apply a router", provoke=here(lambda _: router_of(Catalogue(), "shop")),
    ),
    Case(
        code=C.LOGIN_REFUSED, example="`guideway get`, where KAFKA_BOOTSTRAP_SERVERS is a listener with TLS",
        remedy="correct what the sentence names", provoke=here(_speaks_tls),
    ),
    Case(
        code=C.INVALID_SETTING, example="`GUIDEWAY_ARTEFACT_CACHE_BYTES=ten guideway get`",
        remedy="correct the setting", provoke=here(_no_number),
    ),
]  # fmt: skip
