"""The problems of this benchmark by name. None is like those that optimizers of this package are meta-trained on."""

from __future__ import annotations

from benchmarks.optimizers.cartpole import PPO
from benchmarks.optimizers.generative import VAE, Autoencoder, Diffusion, Siren
from benchmarks.optimizers.language import GPT, LSTM, SkipGram
from benchmarks.optimizers.problem import Problem, check_names
from benchmarks.optimizers.tables import GNN, Regression, Tabular
from benchmarks.optimizers.vision import ConvNet, Mixer, ResNet, ViT, WideMLP

PROBLEMS: dict[str, Problem] = {
    "convnet": ConvNet(),
    "resnet": ResNet(),
    "vit": ViT(),
    "mixer": Mixer(),
    "wide-mlp": WideMLP(),
    "autoencoder": Autoencoder(),
    "vae": VAE(),
    "diffusion": Diffusion(),
    "siren": Siren(),
    "gpt": GPT(),
    "lstm": LSTM(),
    "skip-gram": SkipGram(),
    "tabular": Tabular(),
    "regression": Regression(),
    "gnn": GNN(),
    "ppo": PPO(),
}


def chosen(names: tuple[str, ...]) -> dict[str, Problem]:
    """Problems by name, all if none is named.

    Raises:
        ValueError: there is no problem of such a name.
    """
    check_names("problems", names, PROBLEMS)
    return {name: PROBLEMS[name] for name in names or PROBLEMS}
