import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import l2o
from l2o.learners import Adaptation, adapt, meta_grad
from l2o.rules import SGD, Adam, LSTMRule
from l2o.tasks.data.text_tasks import Pair, TextTask
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.text_episodes import PAD, SCORED, Format, TextEpisodes, encode
from l2o.types import seeded, tree_map

pytest.importorskip("transformers")

from l2o.learners.in_context.context_weights import LoRA, SoftPrompt
from l2o.learners.in_context.language_model import LanguageModel, pretrained, tiny_gpt
from l2o.learners.in_context.text import InContextLanguageModel, packed, right
from tests.l2o.learners.in_context.colours import (
    CHANNEL,
    FAMILY,
    LEARNERS,
    LONGEST,
    OPTIONS,
    START,
    TASK,
    TUNED,
    VOCABULARY,
    WINDOW,
    Words,
    every_kind,
    model,
)
from tests.l2o.learners.meta_training import meta_train


def hand_score(m: LanguageModel, prompt: list[int], row: list[int], scored: list[bool]) -> float:
    """One token at a time, from logits alone."""
    total, count = 0.0, 0
    for i, (token, counts) in enumerate(zip(row, scored, strict=True)):
        if counts:
            logits = m(torch.tensor([prompt + row[:i]])).logits[0, -1].double()
            total += float(logits[token] - logits.exp().sum().log())
            count += 1
    return total / count


@every_kind
@pytest.mark.parametrize("family", [FAMILY, CHANNEL], ids=["direct", "channel"])
@torch.no_grad()
def test_scores_are_those_worked_out_by_hand_with_the_cache_and_without(kind: str, family: TextEpisodes) -> None:
    m, (support, query) = model(kind).eval(), family.sample(seeded(0))
    prompt = [START]
    for row in right(support):
        prompt += row[0][row[1] != PAD].tolist()
    found = {}
    for cached in (True, False):
        learner = InContextLanguageModel(m, START, LONGEST, cached=cached).eval()
        found[cached] = learner.predict(learner.start(support), query.x)
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-5)
    for i in range(2):
        for j in range(3):
            ids, roles = query.x[i, j]
            there = roles != PAD
            expected = hand_score(m, prompt, ids[there].tolist(), (roles[there] == SCORED).tolist())
            assert float(found[True][i, j]) == pytest.approx(expected, abs=1e-4)


@every_kind
def test_training_in_one_pass_has_the_loss_and_the_gradient_of_the_cached_way(kind: str) -> None:
    learner, episode = InContextLanguageModel(model(kind), START, LONGEST), FAMILY.sample(seeded(1))
    at_once = learner.train().feed_forward(episode).loss
    apart = learner.query_loss(learner.start(episode.support), episode.query)
    torch.testing.assert_close(at_once, apart)
    ours, theirs = (
        torch.autograd.grad(loss, list(learner.parameters()), allow_unused=True) for loss in (at_once, apart)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_all_outputs_in_turn_are_those_of_shorter_prompts() -> None:
    m, (support, query) = model(), FAMILY.sample(seeded(2))
    learner = InContextLanguageModel(m, START, LONGEST, in_turn=True)
    rows = right(
        Examples(torch.cat([support.x, _as_long(query.x[:1], support.x)]), torch.cat([support.y, query.y[:1]]))
    )
    total, count = 0.0, 0
    plain = InContextLanguageModel(m, START, LONGEST).eval()
    for i in range(len(rows)):
        fast = plain.start(Examples(support.x[:i], support.y[:i]))
        scored = int((rows[i, 1] == SCORED).sum())
        total, count = total - float(plain.likelihood(fast, rows[i : i + 1])) * scored, count + scored
    one = Episode(support, Examples(query.x[:1], query.y[:1]))
    assert float(learner.feed_forward(one).loss) == pytest.approx(total / count, abs=1e-4)


def _as_long(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, like.shape[-1] - x.shape[-1]))


@pytest.mark.parametrize(("name", "shot"), [*((name, 2) for name in LEARNERS), ("prompt", 0), ("lora", 0)])
def test_stacked_episodes_are_the_single_ones(name: str, shot: int) -> None:
    family = dataclasses.replace(FAMILY, shot=shot)
    adaptation, episodes = Adaptation(LEARNERS[name](model())), family.sample_many(seeded(3), 3)
    for training in (True, False):
        adaptation.train(training)
        many = meta_grad(adaptation, episodes)
        each = [meta_grad(adaptation, tree_map(lambda x, i=i: x[i : i + 1], episodes)) for i in range(3)]
        torch.testing.assert_close(many.losses, torch.cat([found.losses for found in each]))
        torch.testing.assert_close(many.scores, torch.cat([found.scores for found in each]))
        for key, grad in many.grads.items():
            torch.testing.assert_close(grad, sum(found.grads[key] for found in each) / 3, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", [lambda: SGD(0.05), lambda: Adam(0.01), lambda: LSTMRule(base_lr=0.05)])
@pytest.mark.parametrize("name", TUNED)
def test_any_rule_tunes_what_the_demonstrations_became(name: str, rule) -> None:
    learner, support = LEARNERS[name](model()), FAMILY.sample(seeded(4)).support
    start = learner.start(support)
    assert adapt(learner, None, support, 0).keys() == start.keys()
    with torch.no_grad():
        fast = adapt(learner, rule(), support, 3, order="first")
        assert learner.inner_loss(fast, support) < learner.inner_loss(start, support)


@pytest.mark.parametrize("name", TUNED)
def test_the_gradient_through_two_steps_is_that_of_finite_differences(name: str) -> None:
    learner = LEARNERS[name](model()).double().eval()
    adaptation, episode = Adaptation(learner, SGD(0.1).double(), 2), FAMILY.sample(seeded(5))
    theta = {n: p.detach() for n, p in adaptation.named_parameters()}
    stacked = tree_map(lambda x: x[None], episode)
    direction = {n: torch.randn(p.shape, generator=seeded(i)).double() for i, (n, p) in enumerate(theta.items())}

    def at(size: float) -> torch.Tensor:
        return meta_grad(adaptation, stacked, {n: p + size * direction[n] for n, p in theta.items()})

    along = sum((at(0.0).grads[n] * direction[n]).sum() for n in theta)
    torch.testing.assert_close(along, (at(1e-5).losses - at(-1e-5).losses)[0] / 2e-5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_saved_learner_is_the_same_and_keeps_what_was_frozen(name: str, tmp_path: Path) -> None:
    m = model()
    m.requires_grad_(False)
    adaptation, episode = Adaptation(LEARNERS[name](m)).eval(), FAMILY.sample(seeded(7))
    l2o.save(adaptation, tmp_path / "learner.safetensors")
    again = l2o.load(tmp_path / "learner.safetensors").eval()
    assert torch.equal(again(episode).loss, adaptation(episode).loss)
    assert not any(p.requires_grad for p in again.learner.model.parameters())


def test_a_prompt_that_is_too_long_loses_its_front_whatever_the_queries_are() -> None:
    m, many = model().eval(), [pair for pair in TASK.train for _ in range(2)]
    support = encode(FAMILY.format, OPTIONS, many, ()).support
    learner = InContextLanguageModel(m, START, LONGEST).eval()
    fast = learner.start(support)
    whole, _ = packed(right(support), START, 10**6)
    assert len(whole) > WINDOW - LONGEST == fast["layer0.keys"].shape[-2]
    kept, _ = packed(right(support), START, WINDOW - LONGEST)
    assert kept[0] == START and torch.equal(kept[1:], whole[len(whole) - len(kept) + 1 :])
    longest = torch.ones(1, 2, 2, LONGEST, dtype=torch.int64) * SCORED
    assert learner.predict(fast, longest).isfinite().all()
    with pytest.raises(ValueError, match="must have 16 tokens at most"):
        learner.predict(fast, torch.ones(1, 2, 2, LONGEST + 1, dtype=torch.int64))
    assert learner.train().feed_forward(Episode(support, FAMILY.sample(seeded(0)).query)).loss.isfinite()


def test_padding_within_and_between_rows_says_nothing() -> None:
    learner, (support, query) = LEARNERS["prompt"](model()).eval(), FAMILY.sample(seeded(8))
    before = learner.predict(learner.start(support), query.x)
    wide = Examples(torch.nn.functional.pad(support.x, (0, 5)), support.y)
    longer = torch.nn.functional.pad(query.x, (0, 3))
    longer[..., 0, -3:] = 7  # tokens without a role
    torch.testing.assert_close(learner.predict(learner.start(wide), longer), before)
    none = torch.cat([query.x, torch.zeros_like(query.x[:, :1])], dim=1)  # an option that is not there
    assert learner.predict(learner.start(support), none)[:, -1].max() < -1e30


def test_a_model_without_a_cache_is_refused_or_read_again_for_every_row() -> None:
    class NoCache(nn.Module):
        def __init__(self, of: nn.Module) -> None:
            super().__init__()
            self.of, self.config = of, of.config

        def forward(self, input_ids=None, use_cache=None):
            return self.of(input_ids=input_ids, use_cache=False)

    m, (support, query) = model().eval(), FAMILY.sample(seeded(9))
    expected = InContextLanguageModel(m, START, LONGEST).eval()
    expected = expected.predict(expected.start(support), query.x)
    m.network = NoCache(m.network)
    with pytest.raises(ValueError, match=r"must give keys and values.*Use cached=False"):
        InContextLanguageModel(m, START, LONGEST).start(support)
    again = InContextLanguageModel(m, START, LONGEST, cached=False).eval()
    torch.testing.assert_close(again.predict(again.start(support), query.x), expected)
    with pytest.raises(ValueError, match="tokens cannot take steps"):
        again.inner_loss(again.start(support), support)


def test_meta_training_teaches_a_tiny_model_to_use_its_demonstrations() -> None:
    words = [f"w{i}" for i in range(24)]
    tasks = tuple(
        TextTask(
            f"t{i}",
            ("x", "y"),
            tuple(Pair(words[(5 * i + 3 * j + k) % 24], "xy"[j]) for j in range(2) for k in range(3)),
        )
        for i in range(24)
    )
    family = TextEpisodes(tasks, Format(Words(), before="\n", longest=8), way=2, shot=1, query=1)
    adaptation = Adaptation(InContextLanguageModel(tiny_gpt(VOCABULARY, 32, 2, 2, 64), START, 8, in_turn=True))
    generator = seeded(0)
    found = meta_train(adaptation, lambda _: family.sample_many(generator, 16), 60, 3e-3)
    losses = [float(one.losses.mean()) for one in found]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: InContextLanguageModel(m, START, longest=WINDOW), "an example must be shorter than the window"),
        (lambda m: InContextLanguageModel(m, START, 8, window=WINDOW + 1), "no longer than the 96 tokens"),
        (lambda m: InContextLanguageModel(m, START, 8, rows_at_once=0), "rows_at_once must be at least 1"),
        (lambda m: LoRA(m, targets="nothing"), "targets must match the name of a matrix"),
        (lambda m: SoftPrompt(m, length=0), "length must be at least 1"),
        (lambda m: pretrained("/no/such/model"), "must be a llama2.c checkpoint"),
    ],
)
def test_impossible_learners_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(model())
