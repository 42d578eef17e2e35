"""A chooser that is itself learned, over many lifetimes of practice."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.agents.skills.choosers import Chooser
from l2o.agents.skills.record import FAST, SLOW, Record
from l2o.configured import Configured
from l2o.saved import register

NUM_FEATURES = 15


@register
class LearnedChooser(Configured, Chooser):
    """One perceptron for every skill, with the others in view: logits = MLP(z_i, mean_j h(z_j), max_j h(z_j)).

    Skills are a set: their order carries no meaning, and there may be any number of them. z_i are posteriors over
    success at several speeds, their deviations and differences, how often and how long ago the skill was practised,
    what was learned elsewhere since then, and the time that is left.

    Arguments:
        hidden_size: units of each of the layers.
        sharpness: factor on the output.
    """

    def __init__(self, hidden_size: int = 32, sharpness: float = 30.0) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1; got {hidden_size}.")
        self.sharpness = sharpness
        self.context = nn.Linear(NUM_FEATURES, hidden_size)
        self.hidden = nn.Linear(NUM_FEATURES + 2 * hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Float[Tensor, "*batch skills features"]) -> Float[Tensor, "*batch skills"]:
        """Logits from features."""
        h = torch.relu(self.context(z))
        others = torch.cat([h.mean(dim=-2, keepdim=True), h.amax(dim=-2, keepdim=True)], dim=-1)
        x = torch.cat([z, others.expand(*z.shape[:-1], -1)], dim=-1)
        return self.sharpness * self.out(torch.tanh(self.hidden(x))).squeeze(-1)

    def logits(self, record: Record) -> Float[Tensor, "lanes skills"]:
        return self(features(record))


def features(record: Record) -> Float[Tensor, "*batch skills features"]:
    """What is known of each skill, in numbers of order 1."""
    rate, deviation = record.rate(), record.variance().sqrt()
    gain = rate[..., FAST] - rate[..., SLOW]
    spread = (deviation[..., FAST].square() + deviation[..., SLOW].square()).sqrt()
    total = record.total().unsqueeze(-1)
    columns = [
        *(2.0 * rate.unbind(-1)[i] - 1.0 for i in range(3)),
        *(4.0 * deviation.unbind(-1)[i] for i in range(3)),
        4.0 * gain,
        gain / spread,
        torch.log1p(record.practices) / 3.0,
        torch.log1p(record.since) / 3.0,
        (record.practices == 0).to(rate.dtype),
        torch.where(record.practices > 0, total - record.known, total),
        (total / record.since.shape[-1]).expand_as(record.since),
        record.spent.unsqueeze(-1).expand_as(record.since),
        (1.0 - record.spent).clamp(min=1e-3).log().div(math.log(1e3)).unsqueeze(-1).expand_as(record.since),
    ]
    return torch.stack(columns, dim=-1)
