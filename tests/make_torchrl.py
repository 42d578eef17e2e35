"""Runs TorchRL's advantages and losses on random steps, and keeps both as an oracle of ours.

    python -m tests.make_torchrl

in an environment with TorchRL (made with 0.14.1). It is not installed beside ours, because its wheel brings a top-level
package `benchmarks`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ORACLE = Path(__file__).parent / "torchrl.npz"
DISCOUNT, DECAY, RHO, C, CLIP, ENTROPY, VALUE = 0.97, 0.9, 1.1, 0.9, 0.2, 0.03, 0.4


def main() -> None:
    """Write `tests/torchrl.npz`."""
    generator = torch.Generator().manual_seed(0)
    steps, batch = 12, 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    given = {name: normal(steps, batch) for name in ("reward", "value", "next_value", "log_pi", "log_mu")}
    given["terminated"] = torch.rand(steps, batch, generator=generator) < 0.2
    given["done"] = given["terminated"] | (torch.rand(steps, batch, generator=generator) < 0.2)
    continues = ~given["done"][:-1]  # a value before a step is that after the step before, within an episode
    given["next_value"][:-1] = torch.where(continues, given["value"][1:], given["next_value"][:-1])
    n, observations, actions = 20, 5, 4
    given |= {"observation": normal(n, observations), "actor": normal(actions, observations)}
    given |= {"critic": normal(1, observations), "old_log_prob": 0.3 * normal(n) - 1.4}
    given |= {"advantage": normal(n), "target": normal(n)}
    given["action"] = torch.randint(actions, (n,), generator=generator)
    found = {**advantages(given), **losses(given)}
    np.savez_compressed(ORACLE, **{name: x.detach().numpy() for name, x in (given | found).items()})


def advantages(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """TorchRL has batch before time, and a last axis of one."""
    from torchrl.objectives.value import functional

    x = {name: value.T.unsqueeze(-1) for name, value in given.items() if value.shape == given["reward"].shape}
    values = x["value"], x["next_value"], x["reward"], x["done"], x["terminated"]
    gae = functional.generalized_advantage_estimate(DISCOUNT, DECAY, *values)
    vtrace = functional.vtrace_advantage_estimate(DISCOUNT, x["log_pi"], x["log_mu"], *values, RHO, C)
    names = ("gae_advantage", "gae_target", "vtrace_advantage", "vtrace_target")
    return {name: y.squeeze(-1).T for name, y in zip(names, (*gae, *vtrace), strict=True)}


def losses(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of A2C's and PPO's loss, in the order policy, value, entropy, and the actor's gradient of their sum."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torch.distributions import Categorical
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import A2CLoss, ClipPPOLoss

    found = {}
    for name, kind in (("ppo", ClipPPOLoss), ("a2c", A2CLoss)):
        actor, critic = (nn.Linear(given[key].shape[1], given[key].shape[0], bias=False) for key in ("actor", "critic"))
        actor.weight.data.copy_(given["actor"])
        critic.weight.data.copy_(given["critic"])
        module = TensorDictModule(actor, in_keys=["observation"], out_keys=["logits"])
        policy = ProbabilisticActor(
            module, in_keys=["logits"], distribution_class=Categorical, return_log_prob=True, log_prob_key="log_prob"
        )
        extra = {"clip_epsilon": CLIP, "normalize_advantage": False} if kind is ClipPPOLoss else {}
        loss = kind(
            policy,
            ValueOperator(critic, in_keys=["observation"]),
            entropy_coeff=ENTROPY,
            critic_coeff=VALUE,
            loss_critic_type="l2",
            **extra,
        )
        loss.set_keys(sample_log_prob="log_prob")
        column = {key: given[key].unsqueeze(-1) for key in ("advantage", "target")}
        steps = {
            "observation": given["observation"],
            "action": given["action"],
            "log_prob": given["old_log_prob"],
            "advantage": column["advantage"],
            "value_target": column["target"],
        }
        parts = loss(TensorDict(steps, [len(given["action"])]))
        parts = [parts[key] for key in ("loss_objective", "loss_critic", "loss_entropy")]
        sum(parts).backward()
        trained = dict(loss.named_parameters())
        found[name] = torch.stack(parts)
        found[f"{name}_gradient"] = next(p.grad for key, p in trained.items() if "actor" in key)
    return found


if __name__ == "__main__":
    main()
