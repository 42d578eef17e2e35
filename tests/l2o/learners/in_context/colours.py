"""Small language models with random weights, and episodes of three colours for them."""

import pytest
import torch

from l2o.tasks.data.text_tasks import Pair, TextTask
from l2o.tasks.text_episodes import Format, TextEpisodes

pytest.importorskip("transformers")

from l2o.learners.in_context.context_weights import ContextAdapter, LoRA, Prefix, SoftPrompt
from l2o.learners.in_context.language_model import LanguageModel
from l2o.learners.in_context.text import InContextLanguageModel

VOCABULARY, START, LONGEST, WINDOW = 50, 0, 16, 96


class Words:
    """Every word, and every newline, is a token."""

    start = START

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace("\n", " \n ").split(" ")
        return [self.number.setdefault(word, len(self.number) % (VOCABULARY - 1) + 1) for word in words if word]


OPTIONS = ("grey", "deep blue", "red")
TASK = TextTask(
    "colours",
    OPTIONS,
    tuple(
        Pair(f"{noun} {i}", option)
        for option, noun in zip(OPTIONS, ("rock", "big sea", "rose"), strict=True)
        for i in range(4)
    ),
)
FAMILY = TextEpisodes((TASK,), Format(Words(), before="\n", longest=LONGEST), way=3, shot=2, query=2)
CHANNEL = TextEpisodes((TASK,), Format(Words(), "channel", before="\n", longest=LONGEST), way=3, shot=2, query=2)


def model(kind: str = "gpt2", attention: str = "eager") -> LanguageModel:
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": START, "eos_token_id": START}
    if kind == "gpt2":
        sizes |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": WINDOW}
        sizes |= {f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")}
    else:
        sizes |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "max_position_embeddings": WINDOW, "tie_word_embeddings": False}
    made = LanguageModel({"model_type": kind, **sizes}, attention)
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)  # so that predictions differ
    return made


LEARNERS = {
    "prompt": lambda m: InContextLanguageModel(m, START, LONGEST),
    "prompt, in turn": lambda m: InContextLanguageModel(m, START, LONGEST, in_turn=True),
    "prompt, not cached": lambda m: InContextLanguageModel(m, START, LONGEST, cached=False),
    "soft prompt": lambda m: SoftPrompt(m, START, 3),
    "prefix": lambda m: Prefix(m, START, 3),
    "lora": lambda m: LoRA(m, START, 2),
    "context adapter": lambda m: ContextAdapter(m, START, 2, hidden=(8,)),
}
TUNED = [name for name in LEARNERS if name != "prompt, not cached"]
every_kind = pytest.mark.parametrize("kind", ["gpt2", "llama"])
