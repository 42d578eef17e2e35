"""Imports learned_optimization where TensorFlow, which it asks for logs and data sets only, is not installed."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from unittest.mock import MagicMock


def import_without_tensorflow() -> None:
    """Let `import tensorflow` succeed with an empty stand-in; quiet what the libraries say of themselves."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if importlib.util.find_spec("tensorflow") is not None:
        return
    for library in ("flax.io", "flax.training.checkpoints"):  # these do without it, if they find none
        importlib.import_module(library)
    for module in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2", "tensorflow_datasets"):
        sys.modules[module] = MagicMock(name=module)
