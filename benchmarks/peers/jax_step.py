"""Steps of JAX optimizers: the jitted update of all parameters from given gradients, one a repetition.

    venv_jax/bin/python benchmarks/peers/jax_step.py --refs refs --rule celo2 --size 1000000 --tensors 1

`celo2` is Celo2-base without orthogonalisation, `adafac` AdafacMLPLOpt (4 hidden units), `velo` HyperV2 in VeLO's size
(LSTM 512, 256 networks), `adamw` optax's.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from jax_setup import import_without_tensorflow
from protocol import Run, limit_cores, parser, serve, shapes


def from_optax(transformation: Any, params: Any) -> tuple[Any, Callable[..., Any]]:
    """State with parameters, and (state, gradients) -> state."""
    import optax

    def update(state: Any, grads: Any) -> Any:
        inner, params = state
        steps, inner = transformation.update(grads, inner, params)
        return inner, optax.apply_updates(params, steps)

    return (transformation.init(params), params), update


def from_learned(rule: Any, params: Any, key: Any) -> tuple[Any, Callable[..., Any]]:
    """The same for a learned optimizer, which keeps the parameters in its state by itself; theta is carried along."""
    import jax.numpy as jnp

    theta = rule.init(key)

    def update(state: Any, grads: Any) -> Any:
        inner, theta = state
        inner = rule.opt_fn(theta).update(inner, grads, loss=jnp.float32(1.0), model_state=None, key=key)
        return inner, theta

    return (rule.opt_fn(theta).init(params, num_steps=1000, key=key), theta), update


def make(name: str, params: Any, key: Any) -> tuple[Any, Callable[..., Any]]:
    """An optimizer by name."""
    import optax

    if name == "adamw":
        return from_optax(optax.adamw(1e-4), params)
    if name == "celo2":
        from celo.optimizers.celo2_optax import Celo2Transformation, scale_by_celo2

        theta = Celo2Transformation().init_meta_params(key)
        return from_optax(optax.chain(scale_by_celo2(theta, orthogonalize=False), optax.scale(-1e-4)), params)
    if name == "adafac":
        from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt

        return from_learned(AdafacMLPLOpt(), params, key)
    if name == "velo":
        from learned_optimization.research.general_lopt.hyper_v2 import HyperV2

        return from_learned(HyperV2(lstm_hidden_size=512, param_inits=256, use_bugged_loss_features=False), params, key)
    raise ValueError(f"rule must be adamw, celo2, adafac or velo; got {name!r}.")


def start(options: Namespace) -> tuple[Run, dict[str, Any]]:
    """A jitted step; state and parameters are donated, as they are in training."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)

    def draw(scale: float) -> dict[str, Any]:
        sizes = shapes(options.size, options.tensors)
        return {f"{i}": jnp.asarray(random.normal(0, scale, size).astype(np.float32)) for i, size in enumerate(sizes)}

    params, grads = draw(0.05), draw(0.01)
    num = sum(p.size for p in params.values())
    state, update = make(options.rule, params, jax.random.PRNGKey(0))
    total = sum(leaf.size for leaf in jax.tree_util.tree_leaves(state[0]) if hasattr(leaf, "dtype"))
    with_params = options.rule in ("adafac", "velo")
    step = jax.jit(update, donate_argnums=0)
    state = jax.tree_util.tree_map(jnp.array, state)  # a buffer that occurs twice cannot be donated

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, grads))

    return run, {"params": num, "state_floats_per_param": total / num - with_params, "jax": jax.__version__}


def main() -> None:
    """Serve."""
    options = parser()
    options.add_argument("--rule", default="celo2")
    options.add_argument("--size", type=int, default=100_000)
    options.add_argument("--tensors", type=int, default=1)
    given = options.parse_args()
    limit_cores(given.threads)
    sys.path[:0] = [str(given.refs / name) for name in ("learned_optimization", "celo")]
    import_without_tensorflow()
    serve(lambda: start(given))


if __name__ == "__main__":
    main()
