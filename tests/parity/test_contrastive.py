"""Losses, queue and centre of contrastive objectives against lightly and optax, in float64 where they allow it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pretrainx.core.records import Sum
from pretrainx.models.unit import unit
from pretrainx.objectives import contrastive, dino, moco

ROWS, WIDTH = 6, 5
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((2, ROWS, WIDTH))
VALID = np.ones(ROWS, bool)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def torch_of(x):
    import torch

    return torch.tensor(np.asarray(x), dtype=torch.float64)


def nt_xent(first, second, temperature=0.3):
    weights = jnp.ones((len(first), 2))
    outcome = contrastive.nt_xent(unit(first), unit(second), weights, jnp.ones(len(first), bool), temperature)
    return outcome.totals["nt_xent"] / weights.sum()


def test_nt_xent(vision_reference):
    from lightly.loss import NTXentLoss

    a, b = (torch_of(x).requires_grad_() for x in (FIRST, SECOND))
    theirs = NTXentLoss(0.3)(a, b)
    theirs.backward()
    ours, gradients = jax.value_and_grad(nt_xent, (0, 1))(jnp.asarray(FIRST), jnp.asarray(SECOND))
    labels = np.arange(ROWS).tolist() * 2
    third = optax.losses.ntxent(jnp.concatenate([FIRST, SECOND]), jnp.asarray(labels), 0.3)
    np.testing.assert_allclose([ours, third], theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradients[0], a.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(gradients[1], b.grad.numpy(), atol=1e-12)


def test_moco_over_three_wraps(vision_reference):
    """Loss, gradient of the query and queue at each step, against lightly's loss with its memory bank."""
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(0.2, memory_bank_size=(3 * ROWS, WIDTH))
    loss.memory_bank.bank = loss.memory_bank.bank.double()
    ours = moco.Moco(None, None, (), 0.9, 0.2, 3 * ROWS, WIDTH)
    extras = {"queue": jnp.asarray(loss.memory_bank.bank.numpy().copy()), "next": jnp.int32(0), "teacher": {}}
    for _ in range(9):
        query, key = RNG.standard_normal((2, ROWS, WIDTH))
        asked = torch_of(query).requires_grad_()
        theirs = loss(asked, torch_of(key))
        theirs.backward()
        mean = lambda query, key, queue: contrastive.against_queue(unit(query), unit(key), queue, 0.2)[0].mean()
        value, gradient = jax.value_and_grad(mean)(jnp.asarray(query), jnp.asarray(key), extras["queue"])
        np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
        np.testing.assert_allclose(gradient, asked.grad.numpy(), atol=1e-12)
        collected = {"keys": unit(jnp.asarray(key))[:, None], "valid": jnp.asarray(VALID)}
        _, extras = ours.advance({}, extras, collected, None, 0)
        np.testing.assert_allclose(extras["queue"], loss.memory_bank.bank.numpy(), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_moco_v3(vision_reference, temperature):
    """Each half is one direction of CLIP's loss, which open_clip has."""
    import torch
    from open_clip.loss import ClipLoss

    a, b = (torch.nn.functional.normalize(torch_of(x), dim=1).requires_grad_() for x in (FIRST, SECOND))
    logits, _ = ClipLoss().get_logits(a, b, 1 / temperature)
    theirs = torch.nn.functional.cross_entropy(logits, torch.arange(ROWS))
    theirs.backward()
    mean = lambda query: contrastive.info_nce(query, unit(SECOND), jnp.asarray(VALID), temperature)[0].mean()
    value, gradient = jax.value_and_grad(mean)(unit(jnp.asarray(FIRST)))
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, a.grad.numpy(), atol=1e-12)


def test_negative_cosine(vision_reference):
    """What SimSiam sums, and twice of which plus two BYOL does."""
    from lightly.loss import NegativeCosineSimilarity

    a = torch_of(FIRST).requires_grad_()
    theirs = NegativeCosineSimilarity()(a, torch_of(SECOND))
    theirs.backward()
    mean = lambda first: -contrastive.cosine(first, jnp.asarray(SECOND)).mean()
    value, gradient = jax.value_and_grad(mean)(jnp.asarray(FIRST))
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, a.grad.numpy(), atol=1e-12)


def test_dino(vision_reference):
    """Loss, gradient and centre over steps, with two global and two local crops."""
    import torch
    from lightly.loss import DINOLoss

    loss = DINOLoss(WIDTH, teacher_temp=0.0625).double()  # which it rounds to float32
    ours = dino.Dino(None, None, (), 0.9, None, WIDTH)
    extras = {"centre": jnp.zeros(WIDTH), "teacher": {}}
    for _ in range(3):
        taught, said = RNG.standard_normal((2, ROWS, WIDTH)), RNG.standard_normal((4, ROWS, WIDTH))
        student = torch_of(said).requires_grad_()
        theirs = loss(list(torch_of(taught)), list(torch.unbind(student)))
        theirs.backward()

        def mean(student, taught, centre):
            return dino.losses(student.swapaxes(0, 1), taught.swapaxes(0, 1), centre, 0.1, 0.0625)[0].mean()

        value, gradient = jax.value_and_grad(mean)(jnp.asarray(said), jnp.asarray(taught), extras["centre"])
        np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
        np.testing.assert_allclose(gradient, student.grad.numpy(), atol=1e-12)
        collected = {"outputs": Sum(jnp.asarray(taught.sum((0, 1)))), "count": Sum(jnp.asarray(2.0 * ROWS))}
        _, extras = ours.advance({}, extras, collected, None, 0)
        np.testing.assert_allclose(extras["centre"], loss.center[0, 0].numpy(), atol=1e-12)
