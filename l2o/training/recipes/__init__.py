"""Named learners: how each is built from a network, and the settings that its paper trains it with."""

from l2o.training.recipes import black_box, gradient, in_context, memory, metric, neural_process
from l2o.training.recipes.base import Given, Recipe

FAMILIES = (gradient, metric, memory, neural_process, black_box, in_context)

RECIPES: dict[str, Recipe] = {name: recipe for family in FAMILIES for name, recipe in family.RECIPES.items()}

__all__ = ["RECIPES", "Given", "Recipe"]
