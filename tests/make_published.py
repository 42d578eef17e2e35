"""Runs published learned optimizers on the problem of `tests/published.py` and keeps their steps.

    python -m tests.make_published --celo DIR --learned-optimization DIR --open DIR --released DIR

in an environment with jax, flax and dm-haiku. The folders are clones of amoudgl/celo (66d9761),
google/learned_optimization (32186aa) and AlexGoldie/rl-learned-optimization (b65037b), the last one holds released
weights, as the tests find them: celo_theta.npz, celo_adam_theta.npz, open_*.npy.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.jax_setup import import_without_tensorflow
from tests import published as p


def main() -> None:
    """Write `tests/published.npz`."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("celo", "learned-optimization", "open", "released"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    folders = parser.parse_args()
    import_without_tensorflow()
    sys.path[:0] = [str(folders.learned_optimization), str(folders.celo), str(folders.open / "rl_optimizer")]
    found = {
        "celo": celo_steps(p.weights(p.CELO)),
        "celo_adam": celo_steps(p.weights(p.CELO_ADAM)),
        "celo released": celo_steps(dict(np.load(folders.released / "celo_theta.npz")), p.RELEASED_CELO_STEP_SCALE),
        "celo_adam released": celo_steps(dict(np.load(folders.released / "celo_adam_theta.npz"))),
        "open": open_steps(0.7 * p.wave((p.OPEN_SIZE,), 0.9)),
    }
    for path in sorted(folders.released.glob("open_*.npy")):
        found[path.stem] = open_steps(np.load(path), large=path.stem == "open_multi")
    np.savez_compressed(p.STEPS, **found)


def celo_steps(weights: dict[str, np.ndarray], step_scale: float = p.STEP_SCALE) -> np.ndarray:
    """Parameters after each step, all in a row: (steps, coordinates)."""
    import jax
    import jax.numpy as jnp
    from celo.optimizers import celo, celo_adam

    hidden = weights["lstm_init_state.hidden"].shape[1]
    if any(name.startswith("ff_mod_stack") for name in weights):
        rule = celo.Celo(lstm_hidden_size=hidden, param_inits=1, train_phase=2, step_mult=step_scale)
    else:
        rule = celo_adam.Celo(lstm_hidden_size=hidden, initial_rms_decays=(0.999,), step_mult=step_scale)
    theta = rule.init(jax.random.PRNGKey(0))
    named, structure = jax.tree_util.tree_flatten_with_path(theta)
    keys = [
        ".".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path).replace("/", ".") for path, _ in named
    ]
    assert sorted(keys) == sorted(weights), (sorted(keys), sorted(weights))
    assert all(x.shape == weights[key].shape for key, (_, x) in zip(keys, named, strict=True))
    theta = jax.tree_util.tree_unflatten(structure, [jnp.asarray(weights[key]) for key in keys])
    optimizer = rule.opt_fn(theta)
    state = optimizer.init({name: jnp.asarray(p.start(name)) for name in p.SHAPES}, num_steps=p.TOTAL_STEPS)
    rows = []
    for step, loss in enumerate(p.LOSSES):
        grads = {name: jnp.asarray(p.gradient(name, step)) for name in p.SHAPES}
        state = optimizer.update(state, grads, loss=jnp.float32(loss))
        params = optimizer.get_params(state)
        rows.append(p.row(params))
    return np.stack(rows)


def open_steps(weights: np.ndarray, large: bool = False) -> np.ndarray:
    """The same of OPEN; vector, matrix and scalar are the actor, with noise, the rest is the critic."""
    import jax
    import jax.numpy as jnp
    import learned_optimization
    from jax.flatten_util import ravel_pytree
    from learned_optimization import tree_utils
    from learned_optimization.learned_optimizers import common

    inner = "learned_optimization.learned_optimization"
    sys.modules |= {inner: learned_optimization, f"{inner}.tree_utils": tree_utils}
    sys.modules |= {f"{inner}.learned_optimizers": types.ModuleType("x"), f"{inner}.learned_optimizers.common": common}
    sys.modules[f"{inner}.learned_optimizers"].common = common  # type: ignore[attr-defined]
    import network

    sizes = {"hidden_size": 32, "gru_features": 16} if large else {}
    rule = network.GRU_Opt(step_mult=p.STEP_SCALE, **sizes)
    flat, unravel = ravel_pytree(rule.init(jax.random.PRNGKey(0)))
    assert flat.shape == weights.shape
    optimizer = rule.opt_fn(unravel(jnp.asarray(weights)))
    parts = {"actor": ("scalar", "vector", "matrix"), "critic": ("cube", "filters")}

    def both(make: Any) -> dict[str, dict[str, Any]]:
        return {part: {name: make(name) for name in names} for part, names in parts.items()}

    def turned(x: np.ndarray) -> jnp.ndarray:
        return jnp.asarray(np.atleast_1d(x).T)  # their outputs come last; a scalar cannot take a second step

    def active(name: str, step: int) -> jnp.ndarray:
        return jnp.broadcast_to(p.activity(name, step), p.SHAPES[name][::-1] or (1,))

    params = both(lambda name: turned(p.start(name)))
    states = [optimizer.init(params[part], key=jax.random.PRNGKey(1)) for part in parts]
    places = {"scalar": 0.0, "vector": 0.5, "matrix": 1.0, "cube": 0.0, "filters": 1.0}
    rows = []
    real, jax.random.normal = jax.random.normal, lambda key, shape=(): jnp.asarray(p.noise(shape[::-1]).T)
    for step in range(len(p.LOSSES)):
        num_updates = p.TOTAL_STEPS // (p.NUM_EPOCHS * p.NUM_MINIBATCHES)
        training = (step // (p.NUM_EPOCHS * p.NUM_MINIBATCHES)) / (num_updates - 1)
        batch = ((step // p.NUM_MINIBATCHES) % p.NUM_EPOCHS) / (p.NUM_EPOCHS - 1)
        *states, _, _ = optimizer.update(
            *states,
            both(lambda name, step=step: turned(p.gradient(name, step))),
            both(lambda name, step=step: active(name, step)),
            key=jax.random.PRNGKey(2),
            training_prop=jnp.float32([training]),
            batch_prop=jnp.float32([batch]),
            config={"VISUALISE": False},
            layer_props=both(lambda name: jnp.float32(places[name])),
            mask={part: {name: float(part == "actor") for name in names} for part, names in parts.items()},
        )
        now = {**optimizer.get_params(states[0]), **optimizer.get_params(states[1])}
        rows.append(p.row({name: np.asarray(x).T for name, x in now.items()}))
    jax.random.normal = real
    return np.stack(rows)


if __name__ == "__main__":
    main()
