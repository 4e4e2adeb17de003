"""The same rows by transformers and PEFT, on the real model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from tests.reference import plain
from tests.reference.case import Case
from tests.reference.forms import Form, Labels
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Artefact


class Reference:
    """transformers' `generate` with PEFT's guidance, one row at a time."""

    def __init__(self, base: BaseModel, under_lora: BaseModel, cases: Sequence[Case]) -> None:
        self.tokenizer: PreTrainedTokenizerBase = base.tokenizer
        self._plain = base.model
        self._layout = PromptLayout(base.tokenizer)
        folders = {artefact.name: artefact for case in cases for artefact in case.guidance}
        loras = [a for a in folders.values() if a.form == "lora" and a.scale == 1 and a.name != "news/dora@1"]
        self._lora = PeftModel.from_pretrained(under_lora.model, loras[0].folder, _known_as(loras[0]))
        for lora in loras[1:]:
            self._lora.load_adapter(lora.folder, _known_as(lora))
        self._soft = {
            name: PeftModel.from_pretrained(self._plain, artefact.folder).eval()
            for name, artefact in folders.items()
            if artefact.form == "soft_prompt"
        }
        self._lora.eval()
        self._known = {*self._soft, *(lora.name for lora in loras)}

    def _form(self, case: Case, skip: int) -> list[LogitsProcessor]:
        if case.labels:
            return [Labels(self.tokenizer, case.labels, skip)]
        return [Form(self.tokenizer, case.pattern, skip)] if case.pattern else []

    def generate(self, case: Case) -> list[int]:
        """The tokens of greedy `generate`, without the end token."""
        if self._is_beyond_peft(case):
            return self._by_loop(case)[0]
        model, inputs, skip = self._inputs(case)
        form = self._form(case, skip)
        ids: list[int] = model.generate(
            **inputs,
            max_new_tokens=case.max_tokens,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList(form),
        )[0, skip:].tolist()
        return ids[:-1] if ids[-1] == self.tokenizer.eos_token_id else ids

    def gap(self, case: Case, tokens: list[int]) -> float:
        """Difference of the two largest logits after `tokens`, computed without a cache."""
        if self._is_beyond_peft(case):
            return self._by_loop(case)[1][len(tokens)]
        model, inputs, _ = self._inputs(case)
        if "inputs_embeds" in inputs:
            more = model.get_input_embeddings()(torch.tensor([tokens], dtype=torch.long))
            inputs = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], more], dim=1)}
        else:
            ids = torch.cat([inputs["input_ids"], torch.tensor([tokens], dtype=torch.long)], dim=1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = model(**inputs).logits[:, -1]
        for form in self._form(case, 0):
            logits = form(torch.tensor([tokens], dtype=torch.long), logits)
        top = logits[0].topk(2).values
        return float(top[0] - top[1])

    def _is_beyond_peft(self, case: Case) -> bool:
        """PEFT has no inserted layers and combines little; each kind of its own is compared in test_every_kind."""
        return not {artefact.name for artefact in case.guidance} <= self._known

    def _by_loop(self, case: Case) -> tuple[list[int], list[float]]:
        ids = self._layout.encode(case.parts).token_ids
        return plain.generate(
            self._plain, ids, case.guidance, max_tokens=case.max_tokens, end=self.tokenizer.eos_token_id
        )

    def _inputs(self, case: Case) -> tuple[Any, dict[str, Tensor], int]:
        """The model with the case's guidance, what it is given, and how many tokens `generate` repeats of it."""
        ids = torch.tensor([self._layout.encode(case.parts).token_ids])
        soft = [artefact for artefact in case.guidance if artefact.form == "soft_prompt"]
        loras = [artefact for artefact in case.guidance if artefact.form == "lora"]
        by_ids = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not loras:
            assert len(soft) <= 1
            return (self._soft[soft[0].name] if soft else self._plain), by_ids, ids.shape[1]
        (lora,) = loras
        self._lora.set_adapter(_known_as(lora))
        if not soft:
            return self._lora, by_ids, ids.shape[1]
        virtual = [self._soft[artefact.name].get_prompt(batch_size=1) for artefact in soft]
        embeddings = torch.cat([*virtual, self._plain.get_input_embeddings()(ids)], dim=1)
        return self._lora, {"inputs_embeds": embeddings, "attention_mask": torch.ones(embeddings.shape[:2])}, 0


def _known_as(artefact: Artefact) -> str:
    """PEFT's names of adapters are module names, which hold no dots and slashes."""
    return artefact.name.replace("/", "-").replace("@", "-")
