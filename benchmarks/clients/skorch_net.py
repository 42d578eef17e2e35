"""skorch: a network as a classifier of scikit-learn, cloned, cross-validated, pickled."""

from __future__ import annotations

import pickle

import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier

from benchmarks.clients.client import BATCH, Choice, perceptron
from l2o.tasks.data import breast_cancer


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """As many passes over the table as make so many steps, a pickle in the middle; losses of passes."""
    torch.manual_seed(seed)
    x, y = (part.numpy() for part in breast_cancer().train)
    net = NeuralNetClassifier(
        perceptron,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=optimizer.cls,
        lr=optimizer.lr,
        **{f"optimizer__{key}": value for key, value in optimizer.kwargs.items()},
        batch_size=BATCH,
        train_split=None,
        verbose=0,
    )
    epochs = max(2, steps * BATCH // len(x))
    assert cross_val_score(clone(net).set_params(max_epochs=1), x, y, cv=2).mean() > 0.3
    net.fit(x, y, epochs=epochs // 2)
    net = pickle.loads(pickle.dumps(net))
    net.partial_fit(x, y, epochs=epochs - epochs // 2)
    return net.history[:, "train_loss"]
