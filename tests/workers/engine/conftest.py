"""A tiny random Llama, made on the fly, and factories of requests and guidance for it."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from guideway.schemas.generation import Generation
from guideway.schemas.output import OutputRule, Text
from guideway.schemas.request import GuidanceRef, Part, ReplyAddress, Request
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.kernels import native
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, FromEngine
from guideway.workers.messages.to_engine import Admit, Artefact, EngineSettings

EOS = "<|end|>"
TEXT = Text()


def tiny_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Bytes, a few merged words and an end token: 256 + 8 + 1 tokens. more: further words."""
    words = ("yes", "no", "Ġth", "true", *more)
    return merging_tokenizer(*((word[:i], word[i]) for word in words for i in range(1, len(word))))


def merging_tokenizer(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, what is merged of two tokens in this order, and an end token."""
    vocabulary = {char: id_ for id_, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for first, second in merges:
        vocabulary.setdefault(first + second, len(vocabulary))
    bpe = Tokenizer(models.BPE(vocabulary, [*dict.fromkeys(merges)]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS)


def tiny_llama(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> LlamaForCausalLM:
    """Two layers, grouped heads, weights large enough that texts differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.25,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def base_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> BaseModel:
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        fingerprint="sha256:" + "0" * 64,
        eos_ids=frozenset({tokenizer.eos_token_id}),
        context_tokens=512,
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def base(tokenizer: PreTrainedTokenizerFast) -> BaseModel:
    """The same weights every time; a fresh model, since an engine hooks into it."""
    return base_of(tiny_llama(tokenizer), tokenizer)


@pytest.fixture
def kernels() -> ctypes.CDLL:
    """The kernels in C. A machine that has a compiler has to have them: else most tests would be of something else."""
    found = native.kernels()
    if found is None and (shutil.which("cc") is None or os.environ.get("GUIDEWAY_NATIVE") == "0"):
        pytest.skip("there is no C compiler, or its use is turned off")
    assert found is not None, "there is a C compiler, and the kernels were not built: see what was logged"
    return found


class MakeEngine(Protocol):
    def __call__(self, *, max_context_tokens: int = ..., **settings: Any) -> Engine: ...


@pytest.fixture
def make_engine(tokenizer: PreTrainedTokenizerFast) -> MakeEngine:
    def make_engine(*, max_context_tokens: int = 512, **settings: Any) -> Engine:
        base = base_of(tiny_llama(tokenizer), tokenizer)
        # What comes when does not depend on how long files take to be read.
        settings = {"reader_threads": 0, "preparer_threads": 0, **settings}
        return Engine(base, EngineSettings(**settings), max_context_tokens=max_context_tokens)

    return make_engine


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


class MakeAdmit(Protocol):
    def __call__(
        self,
        text: str = ...,
        *,
        id: str | None = ...,
        namespace: str = ...,
        instruction: str = ...,
        artefacts: Sequence[Artefact] = ...,
        output: OutputRule = ...,
        words: Sequence[str] = ...,
        deadline_ms: int | None = ...,
        **generation: Any,
    ) -> Admit: ...


@pytest.fixture
def make_admit() -> MakeAdmit:
    numbers = itertools.count()

    def make_admit(
        text: str = "Is the Earth round?",
        *,
        id: str | None = None,
        namespace: str = "weather",
        instruction: str = "",
        artefacts: Sequence[Artefact] = (),
        output: OutputRule = TEXT,
        words: Sequence[str] = (),
        deadline_ms: int | None = None,
        **generation: Any,
    ) -> Admit:
        id = id or f"r{next(numbers)}"
        parts = [Part(kind="instruction", source="endpoint", text=instruction)] if instruction else []
        request = Request(
            id=id,
            namespace=namespace,
            endpoint="ask",
            endpoint_version=1,
            parts=[*parts, Part(kind="input", source="caller", text=text)],
            guidance=[_ref(artefact.name) for artefact in artefacts],
            output=output,
            words=list(words),
            generation=Generation(**{"max_tokens": 8, **generation}),
            reply_to=[ReplyAddress(topic=f"gw.{namespace}.ask.out.v1")],
            deadline_ms=deadline_ms,
        )
        return Admit(id=f"attempt-{id}", request=request, artefacts=list(artefacts))

    return make_admit


def _ref(name: str) -> GuidanceRef:
    namespace, _, rest = name.partition("/")
    name, _, rest = rest.partition("@")
    version, _, scale = rest.partition("*")
    return GuidanceRef(namespace=namespace, name=name, version=int(version), scale=float(scale or 1))


def run(engine: Engine, admits: Sequence[Admit] = (), *, now: float = 1000.0) -> list[FromEngine]:
    """All messages until the engine has nothing left to do; a step takes 10 ms of the test's time."""
    for admit in admits:
        engine.add(admit)
    messages: list[FromEngine] = []
    for step in itertools.count():
        if not engine.has_work:
            return messages
        messages += engine.step(now + step * 0.01)
        assert step < 5000, "the engine does not come to an end"
    raise AssertionError


def ends(messages: Sequence[FromEngine]) -> dict[str, Finished | Refused]:
    """How each request ended, by its attempt's id; each ended once."""
    found = [message for message in messages if isinstance(message, Finished | Refused)]
    by_id = {message.id: message for message in found}
    assert len(by_id) == len(found)
    return by_id


def text_of(end: Finished | Refused) -> str:
    assert isinstance(end, Finished), end
    return end.samples[0].text


class MakeArtefact(Protocol):
    def __call__(self, name: str, **settings: Any) -> Artefact: ...


@pytest.fixture
def make_lora(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeArtefact:
    """Random LoRAs, strong enough to change the text, saved by PEFT itself."""

    def make_lora(name: str, **settings: Any) -> Artefact:
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings}
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        return saved(tmp_path, name, "lora", lambda: get_peft_model(tiny_llama(tokenizer), config), scale=0.3)

    return make_lora


@pytest.fixture
def make_ia3(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeArtefact:
    """Random IA3 vectors, saved by PEFT itself."""

    def make_ia3(name: str, **settings: Any) -> Artefact:
        targets = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
        config = IA3Config(task_type="CAUSAL_LM", **{**targets, **settings})
        return saved(tmp_path, name, "ia3", lambda: get_peft_model(tiny_llama(tokenizer), config), scale=1.0)

    return make_ia3


@pytest.fixture
def make_prefix(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeArtefact:
    """Random prefixes, saved by PEFT itself."""

    def make_prefix(name: str, **settings: Any) -> Artefact:
        config = PrefixTuningConfig(task_type="CAUSAL_LM", **{"num_virtual_tokens": 4, **settings})
        return saved(tmp_path, name, "prefix", lambda: get_peft_model(tiny_llama(tokenizer), config), scale=1.0)

    return make_prefix


@pytest.fixture
def make_inserted_layer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeArtefact:
    """Random inserted layers, saved as the studio saves them."""

    def make_inserted_layer(name: str, **settings: Any) -> Artefact:
        settings = {"after_layers": [0, 1], "bottleneck": 4, **settings}
        layer = TrainableInsertedLayer(tiny_llama(tokenizer), **settings)
        folder = tmp_path / name.replace("/", "-")
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
        for parameter in layer.parameters():
            parameter.data.copy_(torch.randn(parameter.shape))
        layer.save(folder)
        digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        return Artefact(name=name, form="inserted_layer", digest=digest, folder=str(folder))

    return make_inserted_layer


@pytest.fixture
def make_soft_prompt(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeArtefact:
    """Random soft prompts, saved by PEFT itself."""

    def make_soft_prompt(name: str, **settings: Any) -> Artefact:
        config = PromptTuningConfig(task_type="CAUSAL_LM", **{"num_virtual_tokens": 5, **settings})
        return saved(tmp_path, name, "soft_prompt", lambda: get_peft_model(tiny_llama(tokenizer), config), scale=0.3)

    return make_soft_prompt


def saved(tmp_path: Path, name: str, form: Any, build: Callable[[], PeftModel], *, scale: float) -> Artefact:
    """The trainable weights of `build()` drawn anew from the name's seed, as an artefact."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    random = torch.Generator().manual_seed(seed)
    folder = tmp_path / name.replace("/", "-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers has deprecated, and warns of its own features
        model = build()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=random) * scale)
        model.save_pretrained(folder)
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    return Artefact(name=name, form=form, digest=digest, folder=str(folder))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
