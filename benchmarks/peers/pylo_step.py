"""Steps of PyLO's optimizers on the CPU, which its pure PyTorch path takes, one a repetition.

    venv_torch/bin/python benchmarks/peers/pylo_step.py --refs refs --rule celo2 --size 1000000 --tensors 1

`adafac` is AdafacLO (32 hidden units), `celo2` CELO2 without orthogonalisation, `velo` VeLO. PyLO loads its weights
from the Hugging Face Hub; here they are random numbers of the same shapes, which take the same time.
"""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from typing import Any

from protocol import Run, parser, serve, shapes


def make(name: str, params: list[Any]) -> Any:
    """An optimizer by name."""
    from pylo.models.CELO2_MLP import CELO2MLP
    from pylo.models.Meta_MLP import MetaMLP
    from pylo.models.VeLO_MLP import VeLOMLP
    from pylo.models.VeLO_RNN import VeLORNN
    from pylo.optim.AdafacLO_naive import AdafacLO_naive
    from pylo.optim.CELO2_naive import CELO2_naive
    from pylo.optim.Velo_naive import VeLO_naive

    MetaMLP.from_pretrained = classmethod(lambda cls, key, **kwargs: cls(39, 32, 1))
    for model in (VeLORNN, VeLOMLP, CELO2MLP):
        model.from_pretrained = classmethod(lambda cls, key, **kwargs: cls())
    if name == "adafac":
        return AdafacLO_naive(params, lr=1e-4)
    if name == "celo2":
        return CELO2_naive(params, lr=1e-4, orthogonalize=False, use_adamw_for_1d=False)
    if name == "velo":
        return VeLO_naive(params, lr=1e-4, num_steps=1000)
    raise ValueError(f"rule must be adafac, celo2 or velo; got {name!r}.")


def start(options: Namespace) -> tuple[Run, dict[str, Any]]:
    """A step from given gradients."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    params = [torch.nn.Parameter(0.05 * torch.randn(shape)) for shape in shapes(options.size, options.tensors)]
    for p in params:
        p.grad = 0.01 * torch.randn_like(p)
    optimizer = make(options.rule, params)
    arguments = [torch.tensor(1.0)] if options.rule == "velo" else []

    def run() -> None:
        optimizer.step(*arguments)

    run()
    num = sum(p.numel() for p in params)
    state = sum(x.numel() for slots in optimizer.state.values() for x in slots.values() if torch.is_tensor(x))
    return run, {"params": num, "state_floats_per_param": state / num, "torch": torch.__version__}


def main() -> None:
    """Serve."""
    options = parser()
    options.add_argument("--rule", default="celo2")
    options.add_argument("--size", type=int, default=100_000)
    options.add_argument("--tensors", type=int, default=1)
    given = options.parse_args()
    sys.path.insert(0, str(given.refs / "pylo"))
    warnings.filterwarnings("ignore")
    serve(lambda: start(given))


if __name__ == "__main__":
    main()
