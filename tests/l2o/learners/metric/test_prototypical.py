import torch
from torch import nn

from l2o.learners import MLP, PrototypicalNetwork
from l2o.learners.metric.prototypical import squared_distance
from l2o.tasks.episodes import Examples
from l2o.types import seeded

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
QUERY = torch.randn(5, 4, generator=seeded(1))


def test_prototypes_are_means_and_scores_squared_distances() -> None:
    learner = PrototypicalNetwork(nn.Identity())
    fast = learner.start(Examples(X, Y))
    torch.testing.assert_close(
        fast["prototypes"], torch.stack([X[[0, 5]].mean(0), X[[1, 4]].mean(0), X[[2, 3]].mean(0)])
    )
    torch.testing.assert_close(learner.predict(fast, QUERY), -(torch.cdist(QUERY, fast["prototypes"]) ** 2))
    torch.testing.assert_close(squared_distance(QUERY, QUERY).diagonal(), torch.zeros(5), atol=1e-5, rtol=0)


def test_scores_are_those_of_a_linear_classifier_on_the_embeddings() -> None:
    """Snell et al., section 2.4: up to what is common to all classes, 2 c . z - |c|^2."""
    learner = PrototypicalNetwork(MLP([4, 6, 5]))
    fast = learner.start(Examples(X, Y))
    c, z = fast["prototypes"], learner.encoder(QUERY)
    linear = 2 * z @ c.T - c.square().sum(1)
    torch.testing.assert_close(learner.predict(fast, QUERY).softmax(1), linear.softmax(1))


def test_classes_of_different_numbers_of_examples() -> None:
    y = torch.tensor([0, 1, 1, 1, 1, 2])
    fast = PrototypicalNetwork(nn.Identity()).start(Examples(X, y))
    torch.testing.assert_close(fast["prototypes"], torch.stack([X[0], X[1:5].mean(0), X[5]]))
