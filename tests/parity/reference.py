"""The same random weights in a reference and in ours: logits, loss and every gradient leaf, under the reference's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from parity import frozen
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.interop import directory, tensors
from pretrainx.interop.directory import FAMILIES
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig

# Neither a power of two nor a multiple of one: a wrong axis shows.
VOCAB, ROWS, LENGTH = 97, 3, 13
IDS = np.random.default_rng(0).integers(1, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)


def randomised(model, dtype, seed=0):
    """Every parameter N(0, 0.2^2), norm weights 1 more: initial values hide errors (zero biases, equal scales)."""
    import torch

    model = model.to(getattr(torch, dtype)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2
            is_scale = name.endswith("weight") and parameter.ndim == 1
            parameter.copy_((noise + is_scale).half())  # of so few digits that files of them are small
    return model


def theirs(model, ids=IDS):
    """(logits [B, T, V], mean loss, {name: gradient}) of the reference on rows of T + 1 ids."""
    import torch

    tokens = torch.tensor(ids, dtype=torch.long)
    logits = model(tokens[:, :-1]).logits
    # Not `labels=`: the model's own loss is cast to float32.
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return logits.detach().numpy(), loss.item(), gradients


class Ours:
    """The model that `interop` reads from what the reference saved."""

    def __init__(self, model, folder, dtype, segmented=False):
        model.save_pretrained(folder)
        self.read = directory.read(folder)
        assert self.read.facts["dtype"] == dtype
        self.params = jax.tree.map(jnp.asarray, self.read.params)
        vocabulary = Vocabulary(VOCAB, (("pad", 0), ("eos", 1)))
        precision = Precision(dtype, dtype)
        self.objective = AutoregressiveConfig().build(self.read.config, vocabulary, LENGTH, precision, segmented)

    def logits(self, tokens, **inputs):
        """float[B, T, V] of tokens int[B, T]."""
        inputs = {"tokens": jnp.asarray(tokens, jnp.int32)} | {
            name: jnp.asarray(value) for name, value in inputs.items()
        }
        return np.asarray(self.objective.outputs(self.params, {}, inputs, ("logits",))["logits"])

    def loss(self, params, **fields):
        """The mean loss of rows of T + 1 ids, through `observe` and `encode` as the train step calls them."""
        batch = {name: jnp.asarray(value) for name, value in fields.items()}
        batch["valid"] = jnp.ones(len(batch["tokens"]), bool)
        keys = self.objective.row_keys(jax.random.key(0), batch)
        observation = self.objective.observe_rows(keys, batch, 0)
        outcome = self.objective.encode(params, {}, observation, keys, 0, train=True)
        return outcome.totals["nll"] / observation.weights["nll"].sum()

    def gradients(self, ids=IDS):
        """(loss, {the reference's name: gradient in its layout})"""
        loss, tree = jax.jit(jax.value_and_grad(functools.partial(self.loss, tokens=ids)))(self.params)
        config, family = self.read.config, FAMILIES[self.read.facts["model_type"]]
        table = family.table(config, VOCAB, VOCAB, config.max_length)
        return float(loss), tensors.write(table, tree, "gradients")

    def greedy(self, prompt, count):
        """The prompt int[B, t] and `count` tokens more, each the likeliest, decoded with a cache."""
        cache = self.objective.cache(None, None, len(prompt), prompt.shape[1] + count)
        decode = jax.jit(lambda params, tokens, cache: self.objective.decode(params, {}, tokens, cache))
        found = given = jnp.asarray(prompt, jnp.int32)
        for _ in range(count):
            logits, cache = decode(self.params, given, cache)
            given = logits[:, -1:].argmax(-1).astype(jnp.int32)
            found = jnp.concatenate([found, given], 1)
        return np.asarray(found)


def apart(ours, theirs):
    """The largest difference, in units of the largest value of the reference."""
    return np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()


def compare(model, folder, dtype, tolerance):
    """Asserts equality of logits, loss and every gradient leaf, to `tolerance` relative to the leaf's largest value."""
    ours = Ours(model, folder, dtype)
    logits, loss, gradients = theirs(model)
    asked = {
        "inputs": {"tokens": IDS[:, :-1]},
        "targets": IDS[:, 1:],
        "weights": {"nll": np.ones((ROWS, LENGTH), "f4")},
    }
    frozen.keep(folder, ours.read.facts["config"], asked, loss, gradients, logits)
    our_loss, our_gradients = ours.gradients()
    found = {"logits": apart(ours.logits(IDS[:, :-1]), logits), "loss": abs(our_loss - loss) / loss}
    assert our_gradients.keys() == gradients.keys()
    found |= {name: apart(our_gradients[name], gradient) for name, gradient in gradients.items()}
    assert all(np.abs(gradient).max() > 1e-6 for gradient in gradients.values())
    worst = max(found, key=found.get)
    print(f"{dtype}: {len(gradients)} gradients; logits {found['logits']:.1e}, loss {found['loss']:.1e}, ", end="")
    print(f"worst {worst} {found[worst]:.1e}")
    assert found[worst] < tolerance, {name: error for name, error in found.items() if error >= tolerance}


# Two documents and an empty end in a row, three in the next: a row as whole documents are packed.
SEGMENTS = np.array([[1] * 5 + [2] * 7 + [0] * 2, [1] * 4 + [2] * 3 + [3] * 7], np.int32)
PACKED = np.where(SEGMENTS > 0, IDS[:2], 0)


def documents():
    """(row, slice) of each packed document."""
    for row, segments in enumerate(SEGMENTS):
        for segment in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == segment)
            yield row, slice(where[0], where[-1] + 1)


def compare_packed(model, folder, dtype, tolerance):
    """Packed rows equal each document run by the reference on its own: logits, and the loss over all their targets."""
    import torch

    ours = Ours(model, folder, dtype, segmented=True)
    inputs = {"tokens": PACKED[:, :-1], "segments": SEGMENTS[:, :-1]}
    positions = np.zeros_like(inputs["tokens"])
    for row, where in documents():
        positions[row, where] = np.arange(where.stop - where.start)[: LENGTH - where.start]
    packed = ours.logits(inputs.pop("tokens"), positions=positions, **inputs)
    total, count = 0.0, 0
    for row, where in documents():
        tokens = torch.tensor(PACKED[row, where], dtype=torch.long)[None]
        logits = model(tokens).logits.detach()
        part = packed[row, where]
        assert apart(part, logits[0, : len(part)].numpy()) < tolerance, (row, where)
        total += torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum").item()
        count += tokens.shape[1] - 1
    loss = float(ours.loss(ours.params, tokens=PACKED, segments=SEGMENTS))
    assert abs(loss - total / count) / loss < tolerance
    return ours, positions, packed
