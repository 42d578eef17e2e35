"""Transformer neural processes (Nguyen and Grover, 2022, https://arxiv.org/abs/2207.04179)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from l2o.learners.backbones import MLP
from l2o.learners.base import Fast, Outcome
from l2o.learners.neural_process.attention import TransformerLayer
from l2o.learners.neural_process.classwise import ClasswiseProcess
from l2o.tasks.episodes import Episode, Examples


class Tower(nn.Module):
    """Layers in which context tokens see each other, and others see the context but are not seen.

    So the context goes through once, and what remains of it are the keys and values of each layer: the fast variables.

    Arguments:
        width, heads, hidden, axes: see `TransformerLayer`.
        depth: layers.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int, axes: int = 2) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, or targets would see nothing; got {depth}.")
        self.layers = nn.ModuleList(TransformerLayer(width, heads, hidden, axes) for _ in range(depth))

    def start(self, tokens: Float[Tensor, "*b n width"]) -> Fast:
        """What others see of a context, by layers."""
        fast = {}
        for i, layer in enumerate(self._layers()):
            seen = layer.shows(tokens)
            # a view, of which later layers are no function: each is a variable by itself
            fast[f"layer{i}"] = seen.view_as(seen)
            if i + 1 < len(self.layers):  # nobody sees what comes out of the last
                tokens = layer(tokens, seen)
        return fast

    def at(self, fast: Fast, tokens: Float[Tensor, "*b m width"]) -> Float[Tensor, "*b m width"]:
        """Tokens that look at the context, not at each other."""
        for i, layer in enumerate(self._layers()):
            tokens = layer(tokens, fast[f"layer{i}"])
        return tokens

    def in_turn(
        self, fast: Fast, told: Float[Tensor, "*b m width"], asked: Float[Tensor, "*b m width"]
    ) -> Float[Tensor, "*b m width"]:
        """Tokens `asked`, of which each looks at the context and at those `told` before it."""
        m = told.shape[-2]
        both = torch.cat([told, asked], dim=-2)
        visible = in_turn_mask(fast["layer0"].shape[-2], m, told.device)
        for i, layer in enumerate(self._layers()):
            seen = torch.cat([fast[f"layer{i}"], layer.shows(both[..., :m, :])], dim=-2)
            both = layer(both, seen, visible)
        return both[..., m:, :]

    def at_once(
        self, tokens: Float[Tensor, "*b all width"], num_seen: int, visible: Bool[Tensor, "all seen"] | None = None
    ) -> Float[Tensor, "*b m width"]:
        """Those after the first `num_seen` tokens, which are looked at: `start` and what comes after it in one pass."""
        for i, layer in enumerate(self._layers()):
            seen = layer.shows(tokens[..., :num_seen, :])
            if i + 1 == len(self.layers):
                tokens, visible = tokens[..., num_seen:, :], None if visible is None else visible[num_seen:]
            tokens = layer(tokens, seen, visible)
        return tokens

    def _layers(self) -> list[TransformerLayer]:
        return [layer for layer in self.layers if isinstance(layer, TransformerLayer)]


def in_turn_mask(n: int, m: int, device: torch.device) -> Bool[Tensor, "rows columns"]:
    """Who sees what: columns are n context and m told points, rows the told ones, then the asked ones."""
    told = torch.ones(m, m, dtype=torch.bool, device=device).tril()
    before = torch.ones(m, m, dtype=torch.bool, device=device).tril(-1)
    context = torch.ones(2 * m, n, dtype=torch.bool, device=device)
    return torch.cat([context, torch.cat([told, before])], dim=1)


class TransformerNeuralProcess(ClasswiseProcess):
    """TNP-D: context tokens (x, y) see each other, target tokens (x, 0) see them; each target by itself.

    With `autoregressive`, TNP-A: the query loss is that of the targets in their order, each told those before it,
    so that it is a joint likelihood (divided by the number of targets). `predict` is then of each input as the first.
    Labels are never told: episodes have as many of each class, mostly in a fixed order, which would tell the next
    label by the last ones. So on labels TNP-A is TNP-D.

    The fast variables are the context's keys and values in each layer.

    Arguments:
        inputs, outputs, likelihood, min_scale, encoder: see `NeuralProcess`.
        width: numbers in a token.
        depth: layers.
        heads: of attention.
        hidden: units of the networks in the layers, and of the one that predicts.
        autoregressive: TNP-A.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 64,
        depth: int = 6,
        heads: int = 4,
        hidden: int = 128,
        autoregressive: bool = False,
        likelihood: str = "gaussian",
        min_scale: float = 0.01,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, outputs, likelihood, min_scale, encoder)
        self.autoregressive = autoregressive
        # beside x and y, whether y is known: a target is then no context point of value 0
        self.embedding = MLP([inputs + self.num_answers + 1, width, width, width, width])
        self.tower = Tower(width, depth, heads, hidden, self.axes)
        self.predictor = MLP([width, hidden, self.num_numbers])

    def start(self, support: Examples) -> Fast:
        return self.tower.start(self.embedding(_known(*self.told(support))))

    def predict(self, fast: Fast, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*m"]:
        return self.shaped(self.predictor(self.tower.at(fast, self.embedding(self._unknown(self.asked(x))))))

    def in_turn(self, fast: Fast, query: Examples) -> Float[Tensor, "*m"]:
        """The prediction for each target, told those before it."""
        x, y = self.told(query)
        tokens = torch.cat([_known(x, y), self._unknown(x)], dim=-2)
        told, asked = self.embedding(tokens).chunk(2, dim=-2)
        tokens = self.tower.in_turn(fast, told, asked)
        return self.shaped(self.predictor(tokens))

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*b"]:
        return super().query_loss(fast, query, self.in_turn(fast, query) if self._takes_turns else prediction)

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        if not self._takes_turns:
            return super().judged(fast, query, step)
        return self._judged(self.in_turn(fast, query), query)

    def feed_forward(self, episode: Episode) -> Outcome:
        (x, y), z = self.told(episode.support), self.asked(episode.query.x)
        n, m = x.shape[-2], z.shape[-2]
        seen, visible = [_known(x, y)], None
        if self._takes_turns:
            seen.append(_known(z, self.values(episode.query, z)))
            visible = in_turn_mask(n, m, x.device)
            visible = torch.cat([F.pad(torch.ones_like(visible[:1, :n]).expand(n, n), (0, m)), visible])
        tokens = self.embedding(torch.cat([*seen, self._unknown(z)], dim=-2))
        out = self.tower.at_once(tokens, tokens.shape[-2] - m, visible)
        return self._judged(self.shaped(self.predictor(out)), episode.query)

    def _judged(self, prediction: Float[Tensor, "*n"], query: Examples) -> Outcome:
        return self.outcome(super().query_loss({}, query, prediction), prediction, query)

    @property
    def _takes_turns(self) -> bool:
        return self.autoregressive and not self.classifies

    def _unknown(self, x: Float[Tensor, "*b n inputs"]) -> Float[Tensor, "*b n read"]:
        return F.pad(x, (0, self.num_answers + 1))


def _known(x: Float[Tensor, "*b n inputs"], y: Float[Tensor, "*b n outputs"]) -> Float[Tensor, "*b n read"]:
    return torch.cat([x, y, torch.ones_like(x[..., :1])], dim=-1)
