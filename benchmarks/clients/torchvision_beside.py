"""torchvision, which timm needs and others import where they find it.

Its build on PyPI does not load its operators beside a CPU build of torch. Nothing here calls them, so declaring them
is enough for the import to go through.
"""

from __future__ import annotations

import contextlib

import torch

try:
    import torchvision
except RuntimeError:
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except ImportError:  # nobody needs it then
    pass
with contextlib.suppress(ImportError):
    import torchvision  # noqa: F401
