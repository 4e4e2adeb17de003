"""What the model takes in at one pass: the ids or the embeddings of the next tokens of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from guideway.workers.engine.guidance.resident import RowGuidance
from guideway.workers.engine.guidance.soft_prompt import embeddings_of, virtual_between
from guideway.workers.engine.scheduling.row import Row


def step_inputs(
    rows: Sequence[Row], counts: Sequence[int], embed: nn.Module, device: torch.device, *, ragged: bool
) -> dict[str, Tensor]:
    """The next `counts` tokens of each row, in one line or side by side.

    `input_ids` [1, all tokens] or [rows, longest]; the same of `inputs_embeds` where a row has virtual tokens there.
    """
    pieces = []
    for row, count in zip(rows, counts, strict=True):
        begin, end, before = row.cached_tokens, row.cached_tokens + count, row.prefix_tokens
        virtual = virtual_between(held(row).soft_prompts, begin - before, end - before)
        pieces.append((virtual, row.ids_between(begin, end)))
    if any(virtual for virtual, _ in pieces):
        each = embeddings_of(pieces, embed, device)
        return {"inputs_embeds": torch.cat(each)[None] if ragged else pad_sequence(each, batch_first=True)}
    if ragged:
        return {"input_ids": torch.tensor([[id_ for _, ids in pieces for id_ in ids]])}
    longest = max(counts)
    # Padding has the id of a token of its own row, so that nothing is looked up that may not be there.
    lines = [[*ids, *[ids[-1]] * (longest - len(ids))] for _, ids in pieces]
    return {"input_ids": torch.tensor(lines, device=device)}


def held(row: Row) -> RowGuidance:
    """The guidance of a seated row."""
    assert row.guidance is not None, "the engine equips rows before they are seated"
    return row.guidance
