"""A suite of seconds, given to the command line as `tests.integration.tiny:suite`."""

from l2o.tasks import MLPClassification, MLPFamily, Quadratics
from l2o.tasks.data import digits
from l2o.training.suites import Suite
from l2o.types import seeded


def suite() -> Suite:
    """Three-dimensional bowls, ten steps."""
    family = Quadratics(3)
    return Suite(family, {"seen": family.sample(seeded(1))}, {"unseen": family.sample(seeded(2))}, num_steps=10)


def digits_suite() -> Suite:
    """One-layer tanh networks of eight units on half of the digits, sixty steps."""
    seen, _ = digits().split(0.5, seed=0)
    family = MLPFamily(hidden=(8,), activation=("tanh",), batch_size=(32,), sources=(seen,))
    task = MLPClassification(seen, 32, (12,), "tanh")
    return Suite(family, {"tanh 12": task}, {"tanh 12": task}, num_steps=20)
