"""Learners on language models: real ones of `transformers`, small and random, and stories260K where it is."""

import dataclasses
import os
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

import l2o
from l2o.learners import Adaptation, adapt, meta_grad
from l2o.rules import SGD, Adam, LSTMRule
from l2o.tasks.data.text_tasks import Pair, TextTask
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.text_episodes import CONTEXT, PAD, SCORED, Format, TextEpisodes, encode
from l2o.types import seeded, tree_map

pytest.importorskip("transformers")

from l2o.learners.in_context.choice import choose_options
from l2o.learners.in_context.context_weights import ContextAdapter, LoRA, Prefix, SoftPrompt
from l2o.learners.in_context.language_model import LanguageModel, pretrained, tiny_gpt, wrap
from l2o.learners.in_context.selection import NearestSelection, RandomSelection, learned_selection, model_embedding
from l2o.learners.in_context.text import InContextLanguageModel, mean_likelihood, packed, right
from l2o.learners.in_context.tokenizers import HubTokens, LlamaTokens

VOCABULARY, START, LONGEST, WINDOW = 50, 0, 16, 96


class Words:
    """Every word, and every newline, is a token."""

    start = START

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace("\n", " \n ").split(" ")
        return [self.number.setdefault(word, len(self.number) % (VOCABULARY - 1) + 1) for word in words if word]


OPTIONS = ("grey", "deep blue", "red")
TASK = TextTask(
    "colours",
    OPTIONS,
    tuple(
        Pair(f"{noun} {i}", option)
        for option, noun in zip(OPTIONS, ("rock", "big sea", "rose"), strict=True)
        for i in range(4)
    ),
)
FAMILY = TextEpisodes((TASK,), Format(Words(), before="\n", longest=LONGEST), way=3, shot=2, query=2)
CHANNEL = TextEpisodes((TASK,), Format(Words(), "channel", before="\n", longest=LONGEST), way=3, shot=2, query=2)


def model(kind: str = "gpt2", attention: str = "eager") -> LanguageModel:
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": START, "eos_token_id": START}
    if kind == "gpt2":
        sizes |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": WINDOW}
        sizes |= {f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")}
    else:
        sizes |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "max_position_embeddings": WINDOW, "tie_word_embeddings": False}
    made = LanguageModel({"model_type": kind, **sizes}, attention)
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)  # so that predictions differ
    return made


LEARNERS = {
    "prompt": lambda m: InContextLanguageModel(m, START, LONGEST),
    "prompt, in turn": lambda m: InContextLanguageModel(m, START, LONGEST, in_turn=True),
    "prompt, not cached": lambda m: InContextLanguageModel(m, START, LONGEST, cached=False),
    "soft prompt": lambda m: SoftPrompt(m, START, 3),
    "prefix": lambda m: Prefix(m, START, 3),
    "lora": lambda m: LoRA(m, START, 2),
    "context adapter": lambda m: ContextAdapter(m, START, 2, hidden=(8,)),
}
TUNED = [name for name in LEARNERS if name != "prompt, not cached"]
every_kind = pytest.mark.parametrize("kind", ["gpt2", "llama"])


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


@pytest.mark.parametrize("name", ["lora", "context adapter"])
def test_a_low_rank_change_is_none_at_first_and_learns_from_the_first_step(name: str) -> None:
    m, episode = model(), FAMILY.sample(seeded(6))
    m.requires_grad_(False)
    learner, plain = LEARNERS[name](m), InContextLanguageModel(m, START, LONGEST)
    nothing = Examples(episode.support.x[:0], episode.support.y[:0])
    expected = plain.predict(plain.start(nothing), episode.query.x)
    torch.testing.assert_close(learner.predict(learner.start(episode.support), episode.query.x), expected)
    loss = learner.query_loss(learner.start(episode.support), episode.query)
    trained = [p for p in learner.parameters() if p.requires_grad]
    assert (
        max(float(g.abs().max()) for g in torch.autograd.grad(loss, trained, allow_unused=True) if g is not None) > 1e-6
    )


def test_a_context_adapter_reads_its_demonstrations() -> None:
    learner = LEARNERS["context adapter"](model())
    with torch.no_grad():
        learner.generator.scale.fill_(0.3)
    a, b = (learner.start(FAMILY.sample(seeded(i)).support) for i in (0, 1))
    assert not torch.allclose(a["left.0"], b["left.0"], rtol=1e-3)


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


@pytest.mark.parametrize("calibrated", [False, True])
def test_no_order_of_options_changes_a_choice(calibrated: bool) -> None:
    adaptation, texts = Adaptation(LEARNERS["prompt"](model())), [pair.input for pair in TASK.train[:5]]
    demonstrations = TASK.train[::3]
    first = choose_options(adaptation, FAMILY.format, OPTIONS, demonstrations, texts, calibrated)
    for order in ((2, 0, 1), (1, 2, 0), (0, 2, 1)):
        options = [OPTIONS[i] for i in order]
        again = choose_options(adaptation, FAMILY.format, options, demonstrations, texts, calibrated)
        assert again.outputs == first.outputs
        assert torch.equal(again.scores, first.scores[:, list(order)])


def test_calibration_takes_away_what_an_option_gets_for_nothing() -> None:
    adaptation = Adaptation(LEARNERS["prompt"](model()))
    given = (FAMILY.format, OPTIONS, TASK.train[::3])
    plain = choose_options(adaptation, *given, ["rose 1"]).scores
    nothing = choose_options(adaptation, *given, ["N/A", "[MASK]", ""]).scores
    found = choose_options(adaptation, *given, ["rose 1"], calibrated=True).scores
    torch.testing.assert_close(found, plain - nothing.mean(0))
    with pytest.raises(ValueError, match="a channel model must not be calibrated"):
        choose_options(adaptation, CHANNEL.format, *given[1:], ["rose 1"], calibrated=True)


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
    optimizer, generator = torch.optim.Adam(adaptation.parameters(), 3e-3), seeded(0)
    losses = []
    for _ in range(60):
        found = meta_grad(adaptation, family.sample_many(generator, 16))
        for name, p in adaptation.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()
        losses.append(float(found.losses.mean()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_nearest_demonstrations_are_those_of_the_highest_cosine_and_stand_last() -> None:
    vectors = {"a": [1.0, 0.0], "b": [0.9, 0.1], "c": [0.0, 1.0], "q": [2.0, 0.1]}
    pool = [Pair(name, "x") for name in "abc"]
    nearest = NearestSelection(lambda texts: torch.tensor([vectors[text] for text in texts]))
    assert [pair.input for pair in nearest.choose("q", pool, 2, seeded(0))] == ["b", "a"]
    drawn = {tuple(p.input for p in RandomSelection().choose("q", pool, 2, seeded(i))) for i in range(30)}
    assert len(drawn) == 6
    with pytest.raises(ValueError, match="num must be from 0 to the 3 pairs"):
        nearest.choose("q", pool, 4, seeded(0))


def test_a_learned_selection_prefers_what_the_model_finds_helpful() -> None:
    """A learner that finds the output likelier behind demonstrations of the same first number of the embedding."""

    class Told(InContextLanguageModel):
        def query_loss(self, fast, query, prediction=None):
            return -fast["same"][query.x[0, 0, 0, 1] % 2]

        def start(self, support):
            kind = support.x[0, 0, 0, 1] % 2
            return {"same": torch.stack([1.0 - kind, kind.float()])}

    format = Format(Words(), before="\n", longest=LONGEST)
    texts = [f"n{i}" for i in range(12)]
    parity = {text: format.row(text, "x")[0][1] % 2 for text in texts}
    z = {
        text: torch.cat([torch.tensor([0.3 * (2 * parity[text] - 1)]), torch.randn(4, generator=seeded(i))])
        for i, text in enumerate(texts)
    }
    pool, embed = [Pair(text, "x") for text in texts], lambda asked: torch.stack([z[text] for text in asked])
    adaptation = Adaptation(Told(model(), START, LONGEST))

    def agreement(selection) -> float:
        found = [selection.choose(t, [p for p in pool if p.input != t], 1, seeded(0))[0].input for t in texts]
        return sum(parity[a] == parity[b] for a, b in zip(texts, found, strict=True)) / len(texts)

    learned = learned_selection(adaptation, format, ("x", "y"), pool, embed, seeded(0), steps=150)
    assert agreement(learned) > agreement(NearestSelection(embed)) and agreement(learned) > 0.9


def test_a_models_embedding_of_a_text_does_not_depend_on_the_others() -> None:
    embed = model_embedding(model().eval(), Words())
    together = embed(["rock 1", "big sea 2 and more"])
    torch.testing.assert_close(together, torch.cat([embed(["rock 1"]), embed(["big sea 2 and more"])]))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


@every_kind
def test_a_model_that_is_there_is_wrapped_as_it_is(kind: str) -> None:
    m, tokens = model(kind).eval(), torch.arange(6)[None]
    again = wrap(m.network, "eager")
    assert torch.equal(again(tokens).logits, m(tokens).logits)
    fresh = LanguageModel(**again.config)
    fresh.load_state_dict(again.state_dict())
    assert torch.equal(fresh.eval()(tokens).logits, m(tokens).logits)


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    m = model("llama")
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(tmp_path)
    m.network.save_pretrained(tmp_path)
    found = pretrained(str(tmp_path), "eager")
    assert found.tokens.encode("a b c") == [1, 2, 3] and found.tokens.start == 0
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(found.model.eval()(tokens).logits, m.eval()(tokens).logits)
    assert HubTokens(words).encode("b a") == [2, 1] and HubTokens(words).start is None


def test_likelihood_of_half_precision_is_reckoned_in_float32() -> None:
    logits = 30 + torch.randn(8, 5, 50, generator=seeded(0))
    tokens = torch.randint(50, (8, 5), generator=seeded(1))
    scored = torch.ones_like(tokens, dtype=torch.bool)
    found = mean_likelihood(logits.bfloat16(), tokens, scored)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mean_likelihood(logits.bfloat16().float(), tokens, scored))


def test_likelihoods_come_in_the_order_of_the_rows_however_many_go_at_once() -> None:
    model = InContextLanguageModel(tiny_gpt(50, 8, 1, 1, 64), 0, 16).eval()
    lengths = [5, 0, 9, 3, 0, 9, 2, 0]
    rows = torch.zeros(len(lengths), 2, 9, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[0, :length] = torch.randint(1, 50, (length,), generator=seeded(length))
        row[1, :length], row[1, :1] = SCORED, CONTEXT if length else PAD
    with torch.no_grad():
        fast = model.start(Examples(rows[:0].unsqueeze(1), torch.zeros(0, dtype=torch.int64)))
        each = torch.cat([model.likelihood(fast, row.unsqueeze(0)) for row in rows])
        for at_once in (1, 2, 3, 64):
            model.rows_at_once = at_once
            torch.testing.assert_close(model.likelihood(fast, rows), each)
    assert float(each[1]) < -1e30 and float(each[0]) > -100


def test_likelihood_of_nothing_is_the_least_and_finite() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    scored = torch.tensor([[False, False, True], [False, False, False]])
    found = mean_likelihood(torch.zeros(2, 3, 4), tokens, scored)
    assert float(found[0]) == pytest.approx(-1.386294) and found[1] < -1e30 and found[1].isfinite()


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


STORIES = Path(os.environ.get("L2O_DATA", "nowhere")) / "lm" / "stories260K.bin"
needs_stories = pytest.mark.skipif(not STORIES.is_file(), reason="stories260K.bin is in no folder that L2O_DATA names")


@needs_stories
@torch.no_grad()
def test_stories260k_tells_the_story_that_llama2c_documents() -> None:
    m, tokens = pretrained(str(STORIES))
    ids, past, turn = [tokens.start, *tokens.encode(" Once upon a time")], None, None
    for _ in range(40):
        read = m(torch.tensor([ids if turn is None else [turn]]), past, caching=True)
        past, turn = read.past, int(read.logits[0, -1].argmax())
        ids.append(turn)
    assert tokens.decode(ids).startswith(
        " Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw"
    )
    assert tokens.decode(tokens.encode("Zoë's café\n")) == "Zoë's café\n"


@needs_stories
def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data = STORIES.read_bytes()
    for content, message in (
        (data[:-4], "must have 1056540 bytes; .* has 1056536"),
        (data[:20], "must begin with seven numbers"),
        (struct.pack("<7i", 0, *[1] * 6) + b"1234", "first numbers are no sizes"),
        (data, "needs its tokenizer beside it"),
    ):
        (tmp_path / "m.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            pretrained(str(tmp_path / "m.bin"))
    (tmp_path / "tok512.bin").write_bytes(STORIES.with_name("tok512.bin").read_bytes()[:-3])
    with pytest.raises(ValueError, match="ends within piece 511"):
        LlamaTokens.read(tmp_path / "tok512.bin")
