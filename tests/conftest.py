"""Every annotation of the package is checked while the tests run: types by beartype, shapes by jaxtyping.

Tests marked `compiled` run without these checks, in a second pass (`make test` does both), because the compiler
cannot trace through them.
"""

import os

import pytest
import torch

CHECKED = os.environ.get("L2O_CHECK_SHAPES", "1") == "1"

if CHECKED:
    from jaxtyping import install_import_hook

    install_import_hook("l2o", "beartype.beartype")

torch.set_num_threads(1)  # tiny sizes: threads cost more than they give


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Modules draw their first weights from torch's own generator: every test finds it alike, in whatever order."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the checked pass leave out compiled tests, in the other pass leave out all others."""
    skipped = [item for item in items if ("compiled" in item.keywords) == CHECKED]
    items[:] = [item for item in items if item not in skipped]
    config.hook.pytest_deselected(items=skipped)
