import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from l2o import tasks
from l2o.tasks import data
from l2o.tasks.nets import apply_mlp
from l2o.types import seeded


def test_the_bound_is_the_one_of_torch_distributions():
    task = tasks.VariationalAutoencoder(data.digits(), batch_size=6, hidden=(5,), latent=3, activation="tanh")
    params, (x, noise) = task.init(seeded(0)), task.sample_batch(seeded(1))
    x = (x > 0.5).float()
    mean, log_variance = apply_mlp(params, x.flatten(1), "tanh", "encoder").chunk(2, dim=-1)
    posterior = Normal(mean, (log_variance / 2).exp())
    logits = apply_mlp(params, mean + posterior.stddev * noise, "tanh", "decoder")
    likelihood = Bernoulli(logits=logits).log_prob(x.flatten(1)).sum(dim=1)
    bound = likelihood - kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(task.loss(params, (x, noise)), -bound.mean() / 64)


def test_the_loss_is_pure_and_each_batch_has_its_own_noise():
    task = tasks.AutoencoderFamily(variational=(True,)).sample(seeded(0))
    params, batch = task.init(seeded(1)), task.sample_batch(seeded(2))
    assert task.loss(params, batch) == task.loss(params, batch)
    noise = task.sample_batches(seeded(3), 5)[1]
    assert noise.shape == (5, 64, 8) and not torch.equal(noise[0], noise[1])
    assert noise.std().item() == pytest.approx(1.0, abs=0.1)


def test_a_linear_autoencoder_of_full_width_can_be_perfect():
    task = tasks.Autoencoder(data.wine(), batch_size=4, hidden=(), latent=13)
    eye, zero = torch.eye(13), torch.zeros(13)
    params = {"encoder0.weight": eye, "encoder0.bias": zero, "decoder0.weight": eye, "decoder0.bias": zero}
    assert {k: p.shape for k, p in task.init(seeded(0)).items()} == {k: p.shape for k, p in params.items()}
    assert task.loss(params, task.sample_batch(seeded(0))) == 0


def test_an_untrained_variational_autoencoder_knows_nothing():
    task = tasks.AutoencoderFamily(variational=(True,), init_scale=(1e-3, 1e-3)).sample(seeded(0))
    assert task.loss(task.init(seeded(0)), task.sample_batch(seeded(1))).item() == pytest.approx(math.log(2), abs=1e-3)


def test_pixels_are_needed():
    with pytest.raises(ValueError, match="need images with pixels"):
        tasks.AutoencoderFamily(variational=(False, True), sources=(data.wine(),))
