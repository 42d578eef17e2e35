"""What a prompt can do, as weights: soft prompts, prefixes and LoRA, tuned on the support set by any update rule.

Prompt tuning: Lester et al., 2021 (https://arxiv.org/abs/2104.08691). Prefix tuning: Li and Liang, 2021
(https://arxiv.org/abs/2101.00190). LoRA: Hu et al., 2022 (https://arxiv.org/abs/2106.09685). Where they start from are
slow weights, so that they can be meta-learned as MAML's are; freeze the model (`requires_grad_(False)`) to train
nothing else.
"""

from __future__ import annotations

import math
import re

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners.answers import unit_rms
from l2o.learners.base import Fast
from l2o.learners.black_box.weight_generator import WeightGenerator
from l2o.learners.in_context.language_model import LanguageModel
from l2o.learners.in_context.text import TextLearner, as_fast, as_past, packed, right
from l2o.tasks.episodes import Examples

TARGETS = r"(q_proj|v_proj|c_attn|query_key_value|qkv_proj)\.weight$"
"""Names of matrices that LoRA changes where nothing else is said: queries and values, or what holds them."""


class SoftPrompt(TextLearner):
    """Vectors before every row, in place of a prompt's; the fast variables.

    Arguments:
        model, start_token, rows_at_once: see `TextLearner`.
        length: of the prompt.
    """

    def __init__(
        self, model: LanguageModel, start_token: int | None = None, length: int = 8, rows_at_once: int = 64
    ) -> None:
        super().__init__(model, start_token, rows_at_once)
        words = _random_tokens(model, length)
        self.prompt = nn.Parameter(model.embedding(words).detach().clone())

    def start(self, support: Examples) -> Fast:
        return {"prompt": self.prompt}

    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        before = [fast["prompt"]]
        if self.start_token is not None:
            before.insert(0, self.model.embedding(tokens.new_tensor([self.start_token])))
        prompt = torch.cat(before).expand(len(tokens), -1, -1)
        whole = torch.cat([prompt, self.model.embedding(tokens)], dim=1)
        return self.model(whole).logits[:, prompt.shape[1] :]


class Prefix(TextLearner):
    """Keys and values before every row, in each layer; the fast variables. They begin as those of random tokens.

    Arguments:
        model, start_token, rows_at_once: see `TextLearner`.
        length: of the prefix, the start token counted.
    """

    def __init__(
        self, model: LanguageModel, start_token: int | None = None, length: int = 8, rows_at_once: int = 64
    ) -> None:
        super().__init__(model, start_token, rows_at_once)
        words = _random_tokens(model, length)
        if start_token is not None:
            words[0] = start_token
        with torch.no_grad():
            past = model(words.unsqueeze(0), caching=True).past
        self.prefix = nn.ParameterDict({name.replace(".", "_"): value.clone() for name, value in as_fast(past).items()})

    def start(self, support: Examples) -> Fast:
        return {name.replace("_", "."): value for name, value in self.prefix.items()}

    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        return self.model(tokens, as_past(fast, len(tokens))).logits


class LowRank(nn.Module):
    """The factors of changes left @ right of matrices: left of zeros, so that they change nothing at first.

    Arguments:
        model: whose matrices.
        rank: of the changes.
        targets: a regular expression for the names of the matrices.
    """

    def __init__(self, model: nn.Module, rank: int, targets: str) -> None:
        super().__init__()
        shapes = {n: p.shape for n, p in model.named_parameters() if p.ndim == 2 and re.search(targets, n)}
        if not shapes or rank < 1:
            names = [name for name, p in model.named_parameters() if p.ndim == 2]
            raise ValueError(
                f"targets must match the name of a matrix, such as {', '.join(names[:6])}, and rank be at least 1; "
                f"got targets={targets!r}, rank={rank}."
            )
        self.names = list(shapes)
        self.left = nn.ParameterList(nn.Parameter(torch.zeros(shape[0], rank)) for shape in shapes.values())
        self.right = nn.ParameterList(
            nn.Parameter(torch.randn(rank, shape[1]) / math.sqrt(shape[1])) for shape in shapes.values()
        )

    def fast(self) -> Fast:
        """The factors as fast variables."""
        return dict(self.named_parameters())


class LoRA(TextLearner):
    """Changes of low rank of the model's matrices; their factors are the fast variables.

    Arguments:
        model, start_token, rows_at_once: see `TextLearner`.
        rank: of the changes.
        scale: factor on them; LoRA's alpha / rank.
        targets: a regular expression for the names of the matrices.
    """

    def __init__(
        self,
        model: LanguageModel,
        start_token: int | None = None,
        rank: int = 4,
        scale: float = 1.0,
        targets: str = TARGETS,
        rows_at_once: int = 64,
    ) -> None:
        super().__init__(model, start_token, rows_at_once)
        self.factors, self.scale = LowRank(model, rank, targets), scale

    def start(self, support: Examples) -> Fast:
        return self.factors.fast()

    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        return changed_logits(self.model, self.factors.names, fast, self.scale, self.start_token, tokens)


class ContextAdapter(TextLearner):
    """Turns the demonstrations into a LoRA in one pass: a hypernetwork whose code is what the model makes of them.

    The code is the mean of the model's last vectors over all demonstrations. Zero steps are the feed-forward answer;
    any rule refines the factors from there. They change nothing at first, and the hypernetwork learns from the first
    step (see `WeightGenerator`).

    Arguments:
        model, start_token, rank, scale, targets, rows_at_once: see `LoRA`.
        window: most tokens that are read of the demonstrations; None for the model's.
        hidden: units of the hypernetwork's layers.
    """

    def __init__(
        self,
        model: LanguageModel,
        start_token: int | None = None,
        rank: int = 4,
        scale: float = 1.0,
        targets: str = TARGETS,
        window: int | None = None,
        hidden: tuple[int, ...] = (64,),
        rows_at_once: int = 64,
    ) -> None:
        super().__init__(model, start_token, rows_at_once)
        self.window = model.window if window is None else window
        factors, self.scale = LowRank(model, rank, targets), scale
        self.names = factors.names
        self.generator = WeightGenerator(factors, model.embedding.embedding_dim, tuple(hidden))

    def start(self, support: Examples) -> Fast:
        tokens, _ = packed(right(support), self.start_token, self.window)
        if not tokens.shape[-1]:
            raise ValueError("a context adapter needs a demonstration or a start token to read; got neither.")
        code = self.model.hidden(tokens.unsqueeze(0))[0].mean(0)
        return self.generator(unit_rms(code))

    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        return changed_logits(self.model, self.names, fast, self.scale, self.start_token, tokens)


def changed_logits(
    model: LanguageModel,
    names: list[str],
    factors: Fast,
    scale: float,
    start_token: int | None,
    tokens: Int[Tensor, "rows length"],
) -> Float[Tensor, "rows length vocabulary"]:
    """What the model says after each token of rows, with matrices changed by factors."""
    weights = dict(model.named_parameters())
    changed: dict[str, Shaped[Tensor, "..."]] = {
        name: weights[name] + scale * factors[f"left.{i}"] @ factors[f"right.{i}"] for i, name in enumerate(names)
    }
    if start_token is None:
        return functional_call(model, changed, (tokens,)).logits
    whole = torch.cat([tokens.new_full((len(tokens), 1), start_token), tokens], dim=1)
    return functional_call(model, changed, (whole,)).logits[:, 1:]


def _random_tokens(model: LanguageModel, length: int) -> Int[Tensor, " length"]:
    if length < 1:
        raise ValueError(f"length must be at least 1, or nothing can be learned; got {length}.")
    return torch.randint(model.embedding.num_embeddings, (length,))
