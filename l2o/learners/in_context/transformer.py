"""In-context learning of functions: a causal transformer over x_1, y_1, x_2, y_2, ... (Garg et al., 2022).

https://arxiv.org/abs/2208.01066. Layers are GPT-2's (normalised before, not after), but positions are told by
distances: attention falls by exp(-slope distance), the slopes learned, one for each head (Press et al., 2022,
https://arxiv.org/abs/2108.12409, where they are fixed). So there is no longest sequence, and a head whose slope is
near 0 sees all points alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import answers, check_outputs
from l2o.learners.base import Fast, Learner, Outcome, accuracy_of, one_hot
from l2o.learners.neural_process.attention import check_heads
from l2o.tasks.episodes import Episode, Examples


class InContextTransformer(Learner):
    """Reads the support set as a prompt; the prediction of a query is read where its x stands at the prompt's end.

    The fast variables are the prompt's keys and values in each layer. In training, queries with values are taken in
    their order, each told the ones before it, so that one sequence teaches every number of examples; the loss is the
    mean over them. Queries with labels, and all in evaluation and in `predict`, stand behind the support set alone:
    most episodes have as many of each class, in a fixed order (see `FewShot`), which would tell the next label.

    Episodes may be stacked along leading axes (`*b` in shapes).

    Arguments:
        inputs: numbers in an input.
        outputs: numbers in a value, or classes.
        width: numbers in a token.
        depth: layers.
        heads: of attention.
        attention: softmax, or linear: the control whose weights are q k exp(-slope distance) / number seen, without a
            softmax (von Oswald et al., 2023, https://arxiv.org/abs/2212.07677, where slopes are 0).
        in_turn: whether training takes queries in turn where they have values.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        width: int = 64,
        depth: int = 3,
        heads: int = 2,
        attention: str = "softmax",
        in_turn: bool = True,
    ) -> None:
        super().__init__()
        if inputs < 1 or depth < 1:
            raise ValueError(f"inputs and depth must be at least 1; got {inputs} and {depth}.")
        self.inputs, self.outputs, self.in_turn = inputs, check_outputs(outputs), in_turn
        self.read_x, self.read_y = nn.Linear(inputs, width), nn.Linear(outputs, width)
        self.layers = nn.ModuleList(CausalLayer(width, heads, depth, attention) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    @property
    def stacks(self) -> bool:
        return True

    def start(self, support: Examples) -> Fast:
        tokens, fast = self._sequence(support), Fast()
        distance = _behind(tokens.shape[-2], tokens.shape[-2], tokens)
        for i, layer in enumerate(self._layers()):
            shown = layer.shows(tokens)
            fast[f"layer{i}"] = shown.view_as(shown)  # later layers are no function of a view: each is a variable
            if i + 1 < len(self.layers):
                tokens = layer(tokens, shown, distance)
        return fast

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, "*b"]:
        return self._loss(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, "*b n inputs"]) -> Float[Tensor, "*b n outputs"]:
        tokens, past = self._read(x), fast["layer0"].shape[-2]
        m = tokens.shape[-2]
        alone = torch.full((m, m), math.inf, device=x.device, dtype=tokens.dtype).fill_diagonal_(0.0)
        before = torch.arange(past, 0, -1, device=x.device, dtype=tokens.dtype).expand(m, -1)
        distance = torch.cat([before, alone], dim=1)
        for i, layer in enumerate(self._layers()):
            seen = torch.cat([fast[f"layer{i}"], layer.shows(tokens)], dim=-2)
            tokens = layer(tokens, seen, distance)
        return self.head(self.norm(tokens))

    def told(self, fast: Fast, query: Examples) -> Float[Tensor, "*b n outputs"]:
        """The prediction of each query, told those before it."""
        tokens = self._sequence(query)[..., :-1, :]
        distance = _behind(tokens.shape[-2], fast["layer0"].shape[-2] + tokens.shape[-2], tokens)
        for i, layer in enumerate(self._layers()):
            seen = torch.cat([fast[f"layer{i}"], layer.shows(tokens)], dim=-2)
            tokens = layer(tokens, seen, distance)
        return self.head(self.norm(tokens[..., ::2, :]))

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "*b n outputs"] | None = None
    ) -> Float[Tensor, "*b"]:
        if self._takes_turns(query):
            prediction = self.told(fast, query)
        return self._loss(self.predict(fast, query.x) if prediction is None else prediction, query.y)

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        prediction = self.told(fast, query) if self._takes_turns(query) else self.predict(fast, query.x)
        loss = self._loss(prediction, query.y)
        if query.y.is_floating_point():
            return Outcome(loss, loss.detach())
        return Outcome(loss, accuracy_of(prediction.detach(), query.y))

    def feed_forward(self, episode: Episode) -> Outcome:
        if not self._takes_turns(episode.query):
            return super().feed_forward(episode)
        support, query = episode
        whole = Examples(torch.cat([support.x, query.x], -2), torch.cat([support.y, query.y], support.x.ndim - 2))
        prediction = self.told(self._nothing(whole.x), whole)[..., support.x.shape[-2] :, :]
        loss = self._loss(prediction, query.y)
        return Outcome(loss, loss.detach())

    def _takes_turns(self, query: Examples) -> bool:
        return self.in_turn and self.training and query.y.is_floating_point()

    def _nothing(self, x: Float[Tensor, "*b n inputs"]) -> Fast:
        none = x.new_zeros(*x.shape[:-2], 0, 2 * self.head.in_features)
        return {f"layer{i}": none for i in range(len(self.layers))}

    def _read(self, x: Shaped[Tensor, "*b n inputs"]) -> Float[Tensor, "*b n width"]:
        if x.shape[-1] != self.inputs:
            raise ValueError(f"inputs must have {self.inputs} numbers, as this learner was made; got {x.shape[-1]}.")
        return self.read_x(x)

    def _sequence(self, examples: Examples) -> Float[Tensor, "*b both width"]:
        x = self._read(examples.x)
        y = self.read_y(answers(examples.y, self.outputs, x))
        return torch.stack([x, y], dim=-2).flatten(-3, -2)

    def _loss(self, prediction: Float[Tensor, "*b n outputs"], y: Shaped[Tensor, "*m"]) -> Float[Tensor, "*b"]:
        if not y.is_floating_point():
            chances = torch.log_softmax(prediction, dim=-1)
            return -(chances * one_hot(y, self.outputs, prediction)).sum(-1).mean(-1)
        if prediction.shape != y.shape:
            raise ValueError(
                f"targets must have the prediction's shape, or they would be broadcast; got {tuple(y.shape)} for "
                f"{tuple(prediction.shape)}."
            )
        return (prediction - y).square().mean((-2, -1))

    def _layers(self) -> list[CausalLayer]:
        return [layer for layer in self.layers if isinstance(layer, CausalLayer)]


class CausalLayer(nn.Module):
    """Attention and a network of two layers, each on what is normalised, added to its input (GPT-2's block).

    Arguments:
        width: numbers in a token.
        heads: of attention.
        depth: of the whole; what layers add is drawn smaller by sqrt(2 depth), so that their sum is not.
        attention: softmax or linear.
    """

    def __init__(self, width: int, heads: int, depth: int, attention: str) -> None:
        super().__init__()
        check_heads(width, heads)
        if attention not in ("softmax", "linear"):
            raise ValueError(f"attention must be softmax or linear; got {attention!r}.")
        self.heads, self.attention = heads, attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out, self.up, self.down = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        for layer in (self.out, self.down):
            layer.weight.data /= math.sqrt(2 * depth)
        # from 2 down to 1/100, evenly in logarithms: the first head sees its neighbour, the last one all
        self.log_slopes = nn.Parameter(torch.linspace(math.log(2.0), math.log(0.01), heads))

    def shows(self, tokens: Float[Tensor, "*b n width"]) -> Float[Tensor, "*b n both"]:
        """Keys and values of tokens."""
        return self.keys_values(self.norm1(tokens))

    def forward(
        self,
        tokens: Float[Tensor, "*b m width"],
        seen: Float[Tensor, "*b n both"],
        distance: Float[Tensor, "m n"],
    ) -> Float[Tensor, "*b m width"]:
        """Tokens after the layer.

        Arguments:
            seen: what the tokens seen `show`.
            distance: from each token to each seen one; infinite where it is not seen.
        """
        q = self._apart(self.queries(self.norm1(tokens)))
        keys, values = seen.chunk(2, dim=-1)
        k, v = self._apart(keys), self._apart(values)
        scores = (q / math.sqrt(q.shape[-1])) @ k.mT
        visible = distance.isfinite()
        fall = -self.log_slopes.exp().view(-1, 1, 1) * distance.masked_fill(~visible, 0.0)
        if self.attention == "softmax":
            weights = torch.softmax(scores + fall.masked_fill(~visible, -math.inf), dim=-1)
        else:
            weights = scores * (fall.exp() * visible / visible.sum(-1, keepdim=True))
        tokens = tokens + self.out((weights @ v).transpose(-3, -2).flatten(-2))
        return tokens + self.down(F.gelu(self.up(self.norm2(tokens)), approximate="tanh"))

    def _apart(self, x: Float[Tensor, "*b n width"]) -> Float[Tensor, "*b heads n part"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _behind(rows: int, columns: int, like: Tensor) -> Float[Tensor, "rows columns"]:
    """Distances of the last `rows` of `columns` tokens to all; infinite to later ones."""
    place = torch.arange(columns, device=like.device, dtype=like.dtype)
    distance = place[columns - rows :].unsqueeze(1) - place
    return distance.masked_fill(distance < 0, math.inf)
