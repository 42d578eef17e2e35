"""What learners are trained with on named episodes, where nothing else is said: by data, by data and learner.

A learner's own settings, whatever the data, stand in its recipe.
"""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    # Finn et al., 2017, section 5.1
    "sinusoid": {"shot": 10, "inner_lr": 0.01, "num_episodes": 25, "train_query": 10},
    "gaussian-classes": {"inner_lr": 0.1, "num_episodes": 16},
    # one support point only, because learners that take queries in turn learn all numbers of them
    "linear": {"shot": 10, "train_shot": 1, "train_query": 20, "num_episodes": 64},
    "sparse-linear": {"shot": 10, "train_shot": 1, "train_query": 20, "num_episodes": 64},
    "noisy-sparse-linear": {"shot": 10, "train_shot": 1, "train_query": 20, "num_episodes": 64},
    "two-layer": {"shot": 20, "train_shot": 1, "train_query": 40, "num_episodes": 64},
    "decision-trees": {"shot": 20, "train_shot": 1, "train_query": 40, "num_episodes": 64},
}
"""What learners are trained with on these data where nothing else is said; before the learner's own settings."""

OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("sinusoid", "cavia"): {"inner_lr": 1.0},
    ("sinusoid", "reptile"): {"inner_lr": 0.02},
    ("gaussian-classes", "cavia"): {"inner_lr": 10.0, "inner_steps": 5, "test_steps": 5, "lr": 3e-3},
    # a gradient of first order leads further over many steps
    ("gaussian-classes", "fomaml"): {"inner_steps": 60, "test_steps": 200, "lr": 3e-3},
    # the curvature grows in training: by longer steps the minimum is lost, and with it the gradient
    ("gaussian-classes", "imaml"): {"inner_lr": 0.03, "inner_steps": 32, "test_steps": 32},
    # gradients taken as constants, as in the paper, end at less
    ("gaussian-classes", "meta-lstm"): {
        "inner_lr": 0.1,
        "inner_steps": 3,
        "test_steps": 3,
        "order": "full",
        "lr": 3e-3,
    },
    ("gaussian-classes", "lstm"): {"lr": 3e-3, "num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "gru"): {"lr": 3e-3, "num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "ntm"): {"num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "dnc"): {"num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "mann"): {"num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "snail"): {"lr": 3e-3, "num_episodes": 32, "train_query": 15},
    ("gaussian-classes", "hypernetwork"): {"num_episodes": 32, "train_query": 15},
    ("gaussian-classes", "chunked-hypernetwork"): {"num_episodes": 32, "train_query": 15},
    ("gaussian-classes", "cnaps"): {"num_episodes": 32, "train_query": 15},
    # each query costs as much as a support example, and more where there are draws of a latent
    ("gaussian-classes", "np"): {"train_query": 3},
    ("gaussian-classes", "anp"): {"train_query": 3},
    ("gaussian-classes", "canp"): {"train_query": 5},
    # without a softmax a larger rate learns little
    ("gaussian-classes", "in-context"): {"lr": 3e-3, "num_episodes": 64, "train_query": 5},
    ("gaussian-classes", "in-context-linear"): {"num_episodes": 64, "train_query": 5},
}
"""What single learners are trained with on these data; before both."""
