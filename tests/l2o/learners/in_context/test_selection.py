import pytest
import torch

from l2o.learners import Adaptation
from l2o.tasks.data.text_tasks import Pair
from l2o.tasks.text_episodes import Format
from l2o.types import seeded

pytest.importorskip("transformers")

from l2o.learners.in_context.selection import NearestSelection, RandomSelection, learned_selection, model_embedding
from l2o.learners.in_context.text import InContextLanguageModel
from tests.l2o.learners.in_context.colours import LONGEST, START, Words, model


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
