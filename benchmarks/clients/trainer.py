"""Hugging Face's Trainer: a small GPT-2 from scratch, through `optimizer_cls_and_kwargs`."""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments

from benchmarks.clients.client import Choice, help_texts


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """The Trainer makes the optimizer, with its own groups for weight decay, and clips gradients."""
    torch.manual_seed(seed)
    data = [{"input_ids": window, "labels": window} for window in help_texts()]
    sizes = {"vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, loss_type="ForCausalLM"))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=seed,
            disable_tqdm=True,
        )
        how = (optimizer.cls, optimizer.arguments)
        trainer = Trainer(model, settings, train_dataset=data, optimizer_cls_and_kwargs=how)
        trainer.pop_callback(PrinterCallback)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
