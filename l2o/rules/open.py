"""OPEN: a recurrent optimizer for reinforcement learning (Goldie et al., 2024, https://arxiv.org/abs/2407.07082)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule, check, run_length, working, zero_step
from l2o.rules.counted_noise import normal
from l2o.rules.features import rms_scale
from l2o.rules.network import CoordinateMLP, columns, fan_in_normal
from l2o.types import Params

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
NUM_OWN = 1 + 2 * len(DECAYS) + 2
"""15 features of a coordinate: its value, sign and logarithm of each momentum and of the gradient."""

NUM_FEATURES = NUM_OWN + 4
"""19: training, layer and batch proportion, dormancy."""


class OPEN(UpdateRule):
    """A GRU and an MLP, shared by every coordinate, read how far training is and how active neurons are.

    With (d, m, n) the MLP's outputs of the GRU's state, and e normal noise, all coordinates of all tensors move by

        -(u - mean u),   u = step_scale * (d * exp(magnitude_scale * m) + n * e).

    Features, section 4 of the paper: the value, the sign and logarithm of six momenta and of the gradient, each scaled
    to unit second moment over the tensor; then, the same for a tensor or a neuron,

    - training proportion: the index of the present batch of data over that of the last one, from `total_steps`; 0 where
      that is not known;
    - batch proportion: the index of the present epoch over the same data, over that of the last;
    - layer proportion: 0 for the first layer to 1 for the last. A matrix begins a layer, vectors after it belong to it;
    - dormancy: a neuron's mean absolute activation over that of its layer (Sokar et al., 2023).

    A rule sees no activations: dormancy is 1, every neuron as active as its neighbours, until `tell` says otherwise,
    which also corrects layers and chooses the tensors that get noise: in the paper only the actor's. As there, clip the
    gradients' norm (at 0.5) and hand in actor and critic together, since the mean goes over all. As there too,
    coordinates without gradient move. Inside `l2o.LearnedOptimizer`, after its first step, write to
    `optimizer.state[p]["dormancy"]` (see `dormancy`), `["layer"]` and `["noise"]` in place.

    Arguments:
        hidden_size: of both layers of the MLP.
        gru_size: numbers that the GRU remembers of a coordinate.
        num_epochs, num_minibatches: passes over each batch of data, and steps in a pass; `total_steps` is a multiple of
            their product. 1 and 1 where every step has new data; 4 and 8 in most of the paper's tasks.
        noise: whether tensors get noise, before `tell`.
        seed: of the noise, which follows from it and the step; it stands in the state under `shared["seed"]`.
        step_scale: size of a step before training.
        magnitude_scale: how fast the second output changes the size of a step.
    """

    large_slots = ("momenta", "hidden")
    rates: Tensor

    def __init__(
        self,
        hidden_size: int = 16,
        gru_size: int = 8,
        num_epochs: int = 1,
        num_minibatches: int = 1,
        noise: bool = True,
        seed: int = 0,
        step_scale: float = 1e-3,
        magnitude_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        check(hidden_size >= 1 and gru_size >= 1, "a network needs a unit", hidden_size=hidden_size, gru_size=gru_size)
        check(
            num_epochs >= 1 and num_minibatches >= 1,
            "num_epochs and num_minibatches must be >= 1, since a batch of data takes at least one step",
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
        )
        check(step_scale > 0.0, "step_scale must be > 0, or nothing moves", step_scale=step_scale)
        self.gru_size, self.num_epochs, self.num_minibatches = gru_size, num_epochs, num_minibatches
        self.noise, self.seed = noise, seed
        self.nominal_lr, self.step_scale, self.magnitude_scale = step_scale, step_scale, magnitude_scale
        self.input_weight = nn.Parameter(fan_in_normal(torch.empty(3 * gru_size, NUM_FEATURES)))
        self.input_bias = nn.Parameter(torch.zeros(3 * gru_size))
        self.hidden_weight = nn.Parameter(fan_in_normal(torch.empty(3 * gru_size, gru_size)))
        self.hidden_bias = nn.Parameter(torch.zeros(gru_size))
        self.net = CoordinateMLP([gru_size, hidden_size, hidden_size, 3])
        self.norm_scales = nn.ParameterList(nn.Parameter(torch.ones(hidden_size)) for _ in range(2))
        self.norm_biases = nn.ParameterList(nn.Parameter(torch.zeros(hidden_size)) for _ in range(2))
        with torch.no_grad():
            self.net.weights[-1][2] = 0.0  # no noise before training
        self.register_buffer("rates", 1.0 - torch.tensor(DECAYS), persistent=False)

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for (name, p), place in zip(params.items(), layer_places([p.shape for p in params.values()]), strict=True):
            p = working(p)
            slots[name] = {
                "momenta": p.new_zeros(len(DECAYS), *p.shape),
                "hidden": p.new_zeros(self.gru_size, *p.shape),
                "dormancy": p.new_ones(_neurons(p.shape)),
                "layer": p.new_tensor(place),
                "noise": p.new_tensor(float(self.noise)),
            }
        step = zero_step(params)
        shared = {"total_steps": run_length(params, total_steps), "seed": torch.full_like(step, self.seed)}
        return OptState(step, slots, shared)

    def tell(
        self,
        state: OptState,
        activations: Mapping[str, Tensor] | None = None,
        layers: Mapping[str, float] | None = None,
        noise: Mapping[str, bool] | None = None,
    ) -> OptState:
        """The state, told what a rule does not see; a tensor that is not named stays as it was.

        Arguments:
            activations: by name of a weight or bias, the mean absolute activations of its neurons: one number for each
                index of its first dimension.
            layers: places from 0, the first layer, to 1, the last.
            noise: which tensors get noise.
        """
        slots = {name: dict(slot) for name, slot in state.slots.items()}
        for name in {**(activations or {}), **(layers or {}), **(noise or {})}:
            check(name in slots, "what is told must be of a tensor that is trained", name=name, names=list(slots))
        for name, active in (activations or {}).items():
            slots[name]["dormancy"] = dormancy(active, slots[name]["dormancy"])
        for key, told in (("layer", layers or {}), ("noise", noise or {})):
            for name, value in told.items():
                slots[name][key] = torch.full_like(slots[name][key], float(value))
        return state._replace(slots=slots)

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        steps, slots, proportions = {}, dict(state.slots), self._proportions(state)
        for i, (name, p) in enumerate(params.items()):
            if p.numel():
                p, grad, slot = working(p), working(grads[name]).to(working(p).dtype), state.slots[name]
                momenta = torch.lerp(slot["momenta"], grad, self.rates.to(p.dtype).view(-1, *(1,) * p.ndim))
                outputs, hidden = self._network(p, grad, slot | {"momenta": momenta}, proportions)
                direction, magnitude, wander = outputs.view(3, *p.shape)
                noise = slot["noise"] * normal(state.shared["seed"], state.step, i, p)
                steps[name] = direction * torch.exp(self.magnitude_scale * magnitude) + wander * noise
                slots[name] = slot | {"momenta": momenta, "hidden": hidden.view(slot["hidden"].shape)}
        updates = {name: torch.zeros_like(p) for name, p in params.items()}
        if steps:
            count = sum(u.numel() for u in steps.values())
            mean = torch.stack([u.sum() for u in steps.values()]).sum() / count
            updates |= {name: (-self.step_scale * (u - mean)).to(params[name].dtype) for name, u in steps.items()}
        return updates, OptState(state.step + 1, slots, state.shared)

    def _proportions(self, state: OptState) -> tuple[Tensor, Tensor]:
        """How far training is, and how far it is with the present data."""
        total, per_batch = state.shared["total_steps"], self.num_epochs * self.num_minibatches
        last = (torch.floor(total / per_batch) - 1.0).clamp(min=1.0)
        batch, epoch = state.step // per_batch, state.step // self.num_minibatches % self.num_epochs
        training = torch.where(total > 0, batch.to(total.dtype) / last, 0.0)
        return training, epoch.to(total.dtype) / max(self.num_epochs - 1, 1)

    def _network(
        self,
        p: Float[Tensor, "*p"],
        grad: Float[Tensor, "*p"],
        slot: dict[str, Tensor],
        proportions: tuple[Tensor, Tensor],
    ) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "h n"]]:
        """The MLP's outputs, and what the GRU remembers."""
        momenta = slot["momenta"]
        own = torch.cat(
            [p.unsqueeze(0), momenta.sign(), _log(momenta), grad.sign().unsqueeze(0), _log(grad).unsqueeze(0)]
        )
        own = columns(own) * rms_scale(own, eps=1e-5).unsqueeze(1)
        training, epoch = proportions
        place = torch.stack([training.to(p.dtype), slot["layer"].to(p.dtype), epoch.to(p.dtype)])
        neurons = slot["dormancy"].to(p.dtype).expand(p.shape).reshape(1, -1)
        z = torch.cat([own, place.unsqueeze(1).expand(-1, own.shape[1]), neurons])
        hidden = self._gru(z, columns(slot["hidden"]).to(p.dtype))
        return self._mlp(hidden), hidden

    def _gru(self, z: Float[Tensor, "k n"], h: Float[Tensor, "h n"]) -> Float[Tensor, "h n"]:
        dtype = z.dtype
        inputs = torch.addmm(self.input_bias.to(dtype).unsqueeze(1), self.input_weight.to(dtype), z)
        reset, update, new = inputs.chunk(3)
        h_reset, h_update, h_new = (self.hidden_weight.to(dtype) @ h).chunk(3)
        reset, update = torch.sigmoid(reset + h_reset), torch.sigmoid(update + h_update)
        new = torch.tanh(new + reset * (h_new + self.hidden_bias.to(dtype).unsqueeze(1)))
        return (1.0 - update) * new + update * h

    def _mlp(self, z: Float[Tensor, "h n"]) -> Float[Tensor, "3 n"]:
        for i, (weight, bias) in enumerate(zip(self.net.weights, self.net.biases, strict=True)):
            z = torch.addmm(bias.to(z.dtype).unsqueeze(1), weight.to(z.dtype), z)
            if i < len(self.norm_scales):
                z = z - z.mean(dim=0)
                z = z * torch.rsqrt(z.square().mean(dim=0) + 1e-6)
                scale, shift = self.norm_scales[i].to(z.dtype), self.norm_biases[i].to(z.dtype)
                z = torch.relu(z * scale.unsqueeze(1) + shift.unsqueeze(1))
        return z


def dormancy(activations: Float[Tensor, " n"], like: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Each neuron's activation over the mean of its layer, in the shape of `like` (a slot `dormancy`).

    Arguments:
        activations: mean absolute activation of each neuron over a batch.
    """
    check(
        activations.numel() == like.numel(),
        "activations must be one number for each neuron, which is an index of the tensor's first dimension",
        activations=tuple(activations.shape),
        neurons=like.numel(),
    )
    activations = activations.to(like) + 1e-11
    return (activations / activations.abs().sum() * activations.numel()).view(like.shape)


def layer_places(shapes: Sequence[Sequence[int]]) -> list[float]:
    """Where each tensor's layer stands, from 0 to 1; a tensor of rank 2 or more begins one."""
    layers, layer = [], -1
    for shape in shapes:
        layer += len(shape) >= 2 or layer < 0
        layers.append(layer)
    return [layer / max(layers[-1], 1) for layer in layers]


def _neurons(shape: Sequence[int]) -> list[int]:
    """The shape of a number for each neuron, to be expanded to the tensor's."""
    return [size if i == 0 else 1 for i, size in enumerate(shape)]


def _log(x: Tensor) -> Tensor:
    return torch.log(x.abs() + 1e-13)
