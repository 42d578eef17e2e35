"""What learners on a language model have in common: examples are rows of tokens, scores are mean log-likelihoods."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o.learners.base import Fast, Learner, Outcome, accuracy_of
from l2o.learners.in_context.language_model import LanguageModel, Past
from l2o.rules.base import working
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.text_episodes import CONTEXT, PAD, SCORED


class TextLearner(Learner):
    """Chooses among options by the mean log-likelihood of what is scored of their rows, see `l2o.tasks.text_episodes`.

    Both losses are those of the right option's row, as language models are tuned: its mean negative log-likelihood, a
    token at a time, as the paper of MetaICL has it for the last output.

    Arguments:
        model: the language model; its weights are slow weights, unless it is frozen (`requires_grad_(False)`).
        start_token: what a prompt begins with; None for nothing.
        rows_at_once: of a pass through the model, to bound memory.
    """

    def __init__(self, model: LanguageModel, start_token: int | None, rows_at_once: int) -> None:
        super().__init__()
        if rows_at_once < 1:
            raise ValueError(f"rows_at_once must be at least 1; got {rows_at_once}.")
        self.model, self.start_token, self.rows_at_once = model, start_token, rows_at_once

    @abstractmethod
    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        """What the adapted model says after each token of rows."""

    @property
    def vmaps(self) -> bool:
        return False

    def likelihood(self, fast: Fast, rows: Int[Tensor, "rows 2 length"]) -> Float[Tensor, " rows"]:
        """The mean log-likelihood of what is scored of each row; that of a row of padding is the least there is."""
        order = _lengths(rows).argsort(stable=True)  # rows of one pass are alike in length, so that little is padding
        found = torch.cat([self._likelihood(fast, part) for part in rows[order].split(self.rows_at_once)])
        return found[order.argsort()]

    def _likelihood(self, fast: Fast, rows: Int[Tensor, "rows 2 length"]) -> Float[Tensor, " rows"]:
        rows = rows[..., : max(1, int(_lengths(rows).max()))]
        tokens, scored = rows[:, 0], rows[:, 1] == SCORED
        return mean_likelihood(self.logits(fast, tokens), tokens, scored)

    def predict(self, fast: Fast, x: Int[Tensor, "n options 2 length"]) -> Float[Tensor, "n options"]:
        return self.likelihood(fast, x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return -self.likelihood(fast, right(support)).mean()

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "n options"] | None = None
    ) -> Float[Tensor, ""]:
        if prediction is None:
            return -self.likelihood(fast, right(query)).mean()
        return -prediction.gather(1, query.y.unsqueeze(1)).mean()

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        prediction = self.predict(fast, query.x)
        return Outcome(self.query_loss(fast, query, prediction), accuracy_of(prediction.detach(), query.y))


def right(examples: Examples) -> Int[Tensor, "*b n 2 length"]:
    """The row of each example with the right option."""
    index = examples.y[..., None, None, None].expand(*examples.y.shape, 1, *examples.x.shape[-2:])
    return examples.x.gather(-3, index).squeeze(-3)


def mean_likelihood(
    logits: Float[Tensor, "rows length vocabulary"],
    tokens: Int[Tensor, "rows length"],
    scored: Bool[Tensor, "rows length"],
) -> Float[Tensor, " rows"]:
    """The mean log-likelihood of the scored tokens of each row, given all before them."""
    said = working(logits[:, :-1])  # a difference of two large numbers
    each = said.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1) - said.logsumexp(-1)
    counted = scored[:, 1:].to(each.dtype)
    count = counted.sum(-1)
    least = torch.finfo(each.dtype).min / 8  # finite, so that a mean over others with it is no nan
    return torch.where(count > 0, (each * counted).sum(-1) / count.clamp(min=1), least)


def packed(
    rows: Int[Tensor, "*b k 2 length"], start_token: int | None, window: int
) -> tuple[Int[Tensor, "*b tokens"], Int[Tensor, "*b tokens"]]:
    """Rows one after another without their padding, the start token before them: tokens and roles of a prompt.

    Only the last `window` tokens, the start token counted, are kept: what is too long is cut at its front.
    """
    tokens, roles = rows[..., 0, :].flatten(-2), rows[..., 1, :].flatten(-2)
    order = (roles != PAD).to(torch.int64).argsort(dim=-1, stable=True)  # padding first: the end is where it counts
    first = 0 if start_token is None else 1
    longest = int((roles != PAD).sum(-1).max()) if roles.numel() else 0
    keep = min(longest, window - first)
    order = order[..., order.shape[-1] - keep :]
    tokens, roles = tokens.gather(-1, order), roles.gather(-1, order)
    if start_token is not None:
        start = tokens.new_full((*tokens.shape[:-1], 1), start_token)
        tokens = torch.cat([start, tokens], dim=-1)
        roles = torch.cat([torch.full_like(start, CONTEXT), roles], dim=-1)
    # padding moves to the end, where no token sees it; the start token stays first
    order = (roles == PAD).to(torch.int64).argsort(dim=-1, stable=True)
    return tokens.gather(-1, order), roles.gather(-1, order)


def _lengths(rows: Int[Tensor, "rows 2 length"]) -> Int[Tensor, " rows"]:
    """Tokens of each row."""
    return (rows[:, 1] != PAD).sum(-1)


class InContextLanguageModel(TextLearner):
    """In-context learning, and MetaICL where the model is trained (Min et al., 2022, https://arxiv.org/abs/2110.15943).

    The demonstrations are read once; what the queries see of them, keys and values of each layer, are the fast
    variables. So steps on them are prefix tuning that begins at a prompt. Whether a direct or a channel model is what
    comes of it is said by the rows (`l2o.tasks.text_episodes.Format`).

    In training each query is read behind its demonstrations in one pass, and the loss is that of its right option, the
    last output; the reported score is then the share of its tokens that are the most likely ones. In evaluation it is
    the accuracy of the choice among options.

    Arguments:
        model, start_token, rows_at_once: see `TextLearner`.
        longest: tokens of the longest example, as of the rows' `Format`: demonstrations leave so much of the window
            free, whatever the queries are, and lose their front where they are too long.
        window: None for the model's.
        cached: read demonstrations once; if not, again before every row: slower, needs nothing of the model but logits.
        in_turn: whether the loss in training is that of all outputs of a prompt, each behind those before it: more to
            learn from a pass than the last one alone.
    """

    def __init__(
        self,
        model: LanguageModel,
        start_token: int | None = None,
        longest: int = 256,
        window: int | None = None,
        rows_at_once: int = 64,
        cached: bool = True,
        in_turn: bool = False,
    ) -> None:
        super().__init__(model, start_token, rows_at_once)
        self.window = model.window if window is None else window
        if not 0 < longest < self.window <= model.window:
            raise ValueError(
                f"an example must be shorter than the window, and that no longer than the {model.window} tokens that "
                f"the model takes, or demonstrations have no place; got longest={longest}, window={window}."
            )
        self.longest, self.cached, self.in_turn = longest, cached, in_turn

    @property
    def stacks(self) -> bool:
        return True

    def start(self, support: Examples) -> Fast:
        if not self.cached:
            return {"prompt": right(support)}
        tokens, _ = packed(right(support), self.start_token, self.window - self.longest)
        if not tokens.shape[-1]:
            return {}
        past = self.model(tokens.unsqueeze(0), caching=True).past
        return as_fast(past)

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        if not self.cached:
            raise ValueError(
                "a prompt that is not cached must be left as it is: tokens cannot take steps; use cached=True."
            )
        return super().inner_loss(fast, support)

    def logits(self, fast: Fast, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        if tokens.shape[1] > self.longest:
            raise ValueError(f"an example must have {self.longest} tokens at most (longest); got {tokens.shape[1]}.")
        if "prompt" not in fast:
            return self.model(tokens, as_past(fast, len(tokens))).logits
        prompt, _ = packed(fast["prompt"], self.start_token, self.window - self.longest)
        whole = torch.cat([prompt.expand(len(tokens), -1), tokens], dim=1)
        return self.model(whole).logits[:, prompt.shape[-1] :]

    def feed_forward(self, episode: Episode) -> Outcome:
        if not self.training:
            if episode.query.y.ndim == 1:
                return super().feed_forward(episode)
            each = [Episode(*parts) for parts in zip(*(_unstacked(part) for part in episode), strict=True)]
            found = [super(InContextLanguageModel, self).feed_forward(one) for one in each]
            return Outcome(*(torch.stack(values) for values in zip(*found, strict=True)))
        return self._in_one_pass(episode)

    def _in_one_pass(self, episode: Episode) -> Outcome:
        shape = episode.query.y.shape
        rows, shown = right(episode.query), right(episode.support)
        num = shape[:-1].numel()
        rows, shown = rows.reshape(num, *rows.shape[-3:]).unsqueeze(2), shown.reshape(num, *shown.shape[-3:]).clone()
        if not self.in_turn:
            shown[:, :, 1].clamp_(max=CONTEXT)
        length = max(shown.shape[-1], rows.shape[-1])
        shown, rows = (_longer(part, length) for part in (shown, rows))
        shown = shown.unsqueeze(1).expand(-1, rows.shape[1], -1, -1, -1)
        tokens, roles = packed(torch.cat([shown, rows], dim=2).flatten(0, 1), self.start_token, self.window)
        logits, scored = self.model(tokens).logits, roles == SCORED
        loss = -mean_likelihood(logits, tokens, scored)
        hit = (logits[:, :-1].argmax(-1) == tokens[:, 1:]) & scored[:, 1:]
        score = hit.sum(-1) / scored.sum(-1)
        return Outcome(*(value.view(-1, shape[-1]).mean(-1).view(shape[:-1]) for value in (loss, score.to(loss))))


def as_fast(past: Past) -> Fast:
    """Keys and values of one row by name."""
    fast: Fast = {}
    for i, (keys, values) in enumerate(past):
        fast |= {f"layer{i}.keys": keys[0], f"layer{i}.values": values[0]}
    return fast


def as_past(fast: Fast, rows: int) -> Past | None:
    """Keys and values by layer, the same for all rows; None where there are none."""
    if not fast:
        return None
    num = len(fast) // 2
    wide = {name: value.expand(rows, *value.shape) for name, value in fast.items()}
    return [(wide[f"layer{i}.keys"], wide[f"layer{i}.values"]) for i in range(num)]


def _unstacked(examples: Examples) -> list[Examples]:
    return [Examples(x, y) for x, y in zip(*examples, strict=True)]


def _longer(rows: Int[Tensor, "*b length"], length: int) -> Int[Tensor, "*b longer"]:
    return torch.nn.functional.pad(rows, (0, length - rows.shape[-1]))
