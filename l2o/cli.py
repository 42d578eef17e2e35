"""The command `l2o`: meta-train | population | learn | judge | icl | evaluate | agent | info."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from l2o.kernels.build import cache_folder
from l2o.memory import keep_freed_memory

COMMANDS = {
    "meta-train": "meta-train an update rule on a distribution of tasks",
    "population": "meta-train several update rules at once, by population-based training",
    "learn": "train a learner (MAML, prototypical networks, ...) on episodes of few examples",
    "judge": "how well a trained learner does on episodes, of any shape",
    "icl": "adapt a language model to text tasks by demonstrations, and train it to be better at that",
    "evaluate": "train held-out tasks with a rule and with tuned baselines: table, rows, figure",
    "agent": "agents that improve themselves: train | improve | run | report",
    "info": "what a saved rule or learner is, or which rules, tasks, learners and episodes there are",
}

HELP = """usage: l2o COMMAND [options]

Learned optimizers for PyTorch: meta-train them, use them in one line.

commands:
{commands}

examples:
  l2o meta-train --rule lstm --tasks digits-mlp --log --steps 1000 --run runs/lstm
  l2o meta-train --rule mlp --estimator pes --num-tasks 32 --lr 0.01 --run runs/mlp
  l2o meta-train --config my.yaml --run runs/mine
  l2o meta-train --resume runs/lstm
  l2o population --rule mlp --estimator pes --size 4 --round 50 --run runs/population
  l2o learn --learner maml --data omniglot --way 5 --shot 1 --run runs/maml
  l2o judge --learner runs/maml --way 5 --shot 5
  l2o icl --model stories260K.bin --data trec --steps 500 --run runs/icl
  l2o evaluate --rule runs/lstm --tasks digits-mlp --steps 100
  l2o agent train --recipe ppo --run runs/ppo
  l2o agent run --run runs/agent
  l2o info runs/lstm
  tensorboard --logdir runs

l2o COMMAND --help shows a command's options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())))
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"l2o {version('l2o')}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"l2o: the command must be one of {', '.join(COMMANDS)}; got {command!r}.", file=sys.stderr)
        return 2
    # compiled inner steps are found again by later runs and by workers; torch's own place for them is /tmp
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    keep_freed_memory()
    try:
        # imports torch: only once a command is to run
        if command == "agent":
            from l2o.agents import commands as agent_commands

            return agent_commands.run(rest)
        from l2o.training import commands

        return commands.run(command, rest)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"l2o {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"l2o {command}: stopped; a meta-training run goes on with --resume RUN.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
