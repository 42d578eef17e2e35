"""A suite of seconds, given to the command line as `tests.integration.tiny:suite`."""

from l2o.tasks import Quadratics
from l2o.training.suites import Suite
from l2o.types import seeded


def suite() -> Suite:
    """Three-dimensional bowls, ten steps."""
    family = Quadratics(3)
    return Suite(family, {"seen": family.sample(seeded(1))}, {"unseen": family.sample(seeded(2))}, num_steps=10)
