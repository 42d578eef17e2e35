"""Lightning: `configure_optimizers`; a checkpoint half-way, from which another trainer goes on."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.clients.client import BATCH, Choice, photographs


class Network(lightning.LightningModule):
    """A convolution over pieces of photographs; Lightning hands the optimizer a closure, and so the loss."""

    def __init__(self, optimizer: Choice, losses: list[float]) -> None:
        super().__init__()
        self.optimizer, self.losses = optimizer, losses
        features = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
        self.net = nn.Sequential(*features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        """The one line that changes."""
        return self.optimizer(self.parameters())


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Half of it, then a new trainer and a new module from the checkpoint."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(seed)
    losses: list[float] = []
    loader = DataLoader(TensorDataset(*photographs()), batch_size=BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        first = trainer(max(1, steps // 2), folder)
        first.fit(Network(optimizer, losses), loader)
        first.save_checkpoint(f"{folder}/half.ckpt")
        trainer(steps, folder).fit(Network(optimizer, losses), loader, ckpt_path=f"{folder}/half.ckpt")
    return losses


def trainer(steps: int, folder: str) -> lightning.Trainer:
    """A quiet one on the CPU, that clips gradients."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        gradient_clip_val=5.0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
