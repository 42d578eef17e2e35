"""What is learned: tasks and families of tasks."""

from l2o.tasks.base import Always, Mixture, Task, TaskFamily
from l2o.tasks.quadratic import Quadratic, Quadratics

__all__ = ["Always", "Mixture", "Quadratic", "Quadratics", "Task", "TaskFamily"]
