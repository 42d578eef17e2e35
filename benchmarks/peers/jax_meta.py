"""Meta-training by google/learned_optimization: one update of theta by PES a repetition.

A pair of 64-32-10 perceptrons a task over the 8x8 digits, batch 64, AdafacMLPLOpt (4 hidden units), windows in jitted
pieces of 10 steps, as its examples have it.

    venv_jax/bin/python benchmarks/peers/jax_meta.py --refs refs --num-tasks 16 --trunc 20
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from jax_setup import import_without_tensorflow
from protocol import Run, limit_cores, parser, serve


def batches(images: Any, labels: Any, size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Random batches for ever."""
    import numpy as np

    random = np.random.default_rng(seed)
    while True:
        chosen = random.integers(len(images), size=size)
        yield {"image": images[chosen], "label": labels[chosen]}


def digits_task(batch_size: int) -> Any:
    """The library's own image classifier over scikit-learn's digits."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from learned_optimization.tasks.datasets import base
    from learned_optimization.tasks.fixed import image_mlp
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[..., None], digits.target.astype(np.int32)
    splits = [base.ThreadSafeIterator(batches(images, labels, batch_size, seed)) for seed in range(4)]
    like = {
        "image": jax.ShapeDtypeStruct((batch_size, 8, 8, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    datasets = base.Datasets(*splits, extra_info={"num_classes": 10, "name": "digits"}, abstract_batch=like)
    return image_mlp._MLPImageTask(datasets, [32])


def start(options: Namespace) -> tuple[Run, dict[str, Any]]:
    """An update of theta, the loss waited for."""
    import jax
    from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt
    from learned_optimization.optimizers.base import Adam
    from learned_optimization.outer_trainers import (
        gradient_learner,
        lopt_truncated_step,
        truncated_pes,
        truncation_schedule,
    )
    from learned_optimization.tasks.base import single_task_to_family

    rule = AdafacMLPLOpt()
    step = lopt_truncated_step.VectorizedLOptTruncatedStep(
        task_family=single_task_to_family(digits_task(64)),
        learned_opt=rule,
        trunc_sched=truncation_schedule.ConstantTruncationSchedule(1000 * options.trunc),
        num_tasks=options.num_tasks,
        random_initial_iteration_offset=0,
    )
    estimator = truncated_pes.TruncatedPES(step, trunc_length=options.trunc, steps_per_jit=10, std=0.01)
    learner = gradient_learner.SingleMachineGradientLearner(rule, [estimator], Adam(3e-4))
    key = jax.random.PRNGKey(0)
    state = learner.init(key)

    def run() -> None:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, loss, _ = learner.update(state, now)
        float(loss)

    theta = sum(leaf.size for leaf in jax.tree_util.tree_leaves(learner.get_meta_params(state)))
    return run, {"theta": int(theta), "jax": jax.__version__}


def main() -> None:
    """Serve."""
    options = parser()
    options.add_argument("--num-tasks", type=int, default=16)
    options.add_argument("--trunc", type=int, default=20)
    given = options.parse_args()
    limit_cores(given.threads)
    sys.path.insert(0, str(given.refs / "learned_optimization"))
    import_without_tensorflow()
    serve(lambda: start(given))


if __name__ == "__main__":
    main()
