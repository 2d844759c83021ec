"""Observations made by hand, so that a reference's loss and ours are over the same hidden tokens; sources, and decoding."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from parity import frozen
from parity.reference import VOCAB, apart
from pretrainx.core import paths
from pretrainx.core.records import Observation
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.interop import directory, tensors
from pretrainx.interop.directory import FAMILIES
from pretrainx.models.layers import Precision
from pretrainx.training import state as states

SPECIALS = {"pad": 0, "eos": 1, "mask": 2, "bos": 3, "cls": 4, "sep": 5}
ROWS, LENGTH, SOURCE = 3, 13, 17
LENGTHS, SOURCE_LENGTHS = np.array([13, 9, 11], np.int32), np.array([17, 6, 12], np.int32)


def rows(width, lengths, pad, seed=0):
    """int32[B, width] of ids that are no specials, padded."""
    ids = np.random.default_rng(seed).integers(6, VOCAB, (ROWS, width)).astype(np.int32)
    return np.where(np.arange(width) < lengths[:, None], ids, pad)


def within(width, lengths):
    return np.arange(width) < lengths[:, None]


class Ours:
    """A model that `interop` has read, under an objective made for it."""

    def __init__(self, read, dtype, objective, specials=SPECIALS, length=LENGTH):
        self.read = read
        assert self.read.facts["dtype"] == dtype and not self.read.facts["left_out"]
        self.family = FAMILIES[self.read.facts["model_type"]]
        self.params = jax.tree.map(jnp.asarray, self.read.params)
        vocabulary = Vocabulary(VOCAB, tuple(specials.items()), 0, tuple(range(VOCAB - 1, VOCAB - 9, -1)))
        self.objective = objective.build(self.read.config, vocabulary, length, Precision(dtype, dtype))
        made = jax.eval_shape(lambda: self.objective.init(jax.random.key(0), states.example_batch(self.objective, 2)))
        shapes = lambda tree: {path: leaf.shape for path, leaf in paths.leaves(tree)}
        unboxed = jax.tree.map(lambda leaf: leaf.value, made, is_leaf=lambda leaf: hasattr(leaf, "value"))
        assert shapes(unboxed) == shapes(self.params)

    @classmethod
    def of(cls, model, folder, *arguments):
        """Of what the reference saves."""
        model.save_pretrained(folder)
        made = cls(directory.read(folder), *arguments)
        made.folder = folder
        return made

    def outputs(self, inputs, *names):
        found = jax.jit(lambda params, given: self.objective.outputs(params, {}, given, names))(self.params, inputs)
        return {name: np.asarray(value) for name, value in found.items()}

    def named(self, tree):
        """Our leaves, or their gradients, under the reference's names and in its layout."""
        config = self.read.config
        found = tensors.write(self.family.table(config, VOCAB, VOCAB, config.max_length), tree, "gradients")
        return {self.family.stored(config, name): array for name, array in found.items()}

    def gradients(self, inputs, targets, weights):
        """(the sum of the mean losses of all terms, {the reference's name: gradient}), as the train step has them."""
        observation = jax.tree.map(jnp.asarray, Observation(inputs, targets, weights))

        def loss(params):
            totals = self.objective.encode(params, {}, observation, None, 0, train=False).totals
            assert totals.keys() == weights.keys()
            return sum(totals[name] / weights[name].sum() for name in totals)

        value, tree = jax.jit(jax.value_and_grad(loss))(self.params)
        return float(value), self.named(tree)


def mean_loss(logits, targets, weights):
    """The reference's: mean negative log-likelihood over what has weight, in the logits' dtype."""
    import torch

    where = torch.tensor(np.asarray(weights) > 0)
    return torch.nn.functional.cross_entropy(logits[where], torch.tensor(targets, dtype=torch.long)[where])


def compare(ours, model, inputs, targets, weights, logits, loss, real, tolerance):
    """Asserts that logits where `real`, loss and every gradient leaf equal the reference's (tensors that carry a graph)."""
    model.zero_grad()
    loss.backward()
    wanted = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    asked = {"inputs": inputs, "targets": targets, "weights": weights}
    frozen.keep(ours.folder, ours.read.facts["config"], asked, loss.item(), wanted, logits.detach().numpy())
    our_loss, gradients = ours.gradients(inputs, targets, weights)
    assert gradients.keys() == wanted.keys()
    assert all(np.abs(gradient).max() > 1e-6 for name, gradient in wanted.items() if not free(name))
    our_logits = ours.outputs(inputs, "logits")["logits"][real]
    found = {"logits": apart(our_logits, logits.detach().numpy()[real]), "loss": abs(our_loss - loss.item()) / our_loss}
    # A key's bias moves all scores of a query alike: no gradient but rounding, in units of the query's.
    unit = lambda name: np.abs(wanted[name.replace(".key.", ".query.").replace(".k_proj.", ".q_proj.")]).max()
    found |= {name: np.abs(gradients[name] - wanted[name]).max() / unit(name) for name in wanted}
    worst = max(found, key=found.get)
    print(f"{len(wanted)} gradients; logits {found['logits']:.1e}, loss {found['loss']:.1e}, ", end="")
    print(f"worst {worst} {found[worst]:.1e}")
    assert found[worst] < tolerance, {name: error for name, error in found.items() if error >= tolerance}


def free(name):
    """Whether nothing depends on a parameter."""
    return name.endswith(("key.bias", "k_proj.bias"))


def compare_round_trip(model, folder):
    """What is read and written again is the same file, bit for bit, and says the same; its class reads it."""
    import torch
    from safetensors.torch import load_file

    model.save_pretrained(folder / "hf")
    read = directory.read(folder / "hf")
    rows = {"ids": VOCAB, "vocab_size": VOCAB, "max_length": read.config.max_length}
    directory.write(folder / "again", read.config, read.params, **rows, facts=read.facts)
    before, after = (load_file(folder / name / "model.safetensors") for name in ("hf", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].dtype == after[name].dtype for name in before)
    first, second = (json.loads((folder / name / "config.json").read_text()) for name in ("hf", "again"))
    assert first == second
    # As a model that was never theirs: the configuration is made from ours.
    special = {"pad": 1 if model.config.model_type in ("roberta", "bart") else 0, "eos": model.config.eos_token_id}
    directory.write(folder / "ours", read.config, read.params, **rows, special=special)
    assert json.loads((folder / "ours" / "config.json").read_text())["architectures"] == [type(model).__name__]
    again = directory.read(folder / "ours")
    assert again.config == read.config
    for name in ("again", "ours"):
        loaded, info = type(model).from_pretrained(folder / name, output_loading_info=True)
        assert not any(info.values()), info
        given = dict(model.named_parameters())
        assert all(torch.equal(given[key], value) for key, value in loaded.named_parameters())
        yield loaded


def pair(pad, begin):
    """(inputs, targets, weights) of an encoder-decoder: sources and targets of several lengths, padded."""
    source, targets = rows(SOURCE, SOURCE_LENGTHS, pad), rows(LENGTH, LENGTHS, pad, 1)
    tokens = np.concatenate([np.full((ROWS, 1), begin, np.int32), targets[:, :-1]], 1)
    inputs = {"source": source, "source_length": SOURCE_LENGTHS, "tokens": tokens}
    return inputs, targets, {"nll": within(LENGTH, LENGTHS).astype(np.float32)}


def run_pair(model, inputs):
    """The reference's logits of them."""
    import torch

    source, tokens = (torch.tensor(inputs[name], dtype=torch.long) for name in ("source", "tokens"))
    mask = torch.tensor(within(SOURCE, SOURCE_LENGTHS), dtype=torch.long)
    return model(input_ids=source, attention_mask=mask, decoder_input_ids=tokens).logits


def compare_decoding(ours, model, inputs, tolerance):
    """Tokens decoded in pieces with a cache have the logits of the whole; greedily they are the reference's."""
    import torch

    whole = ours.outputs(inputs, "logits")["logits"]
    source = {name: jnp.asarray(inputs[name]) for name in ("source", "source_length")}
    cache = ours.objective.cache(ours.params, {}, ROWS, LENGTH, source)
    decode = jax.jit(lambda params, tokens, cache: ours.objective.decode(params, {}, tokens, cache))
    parts, places = [], (0, 4, 5, 6, 7, 10, LENGTH)
    for start, stop in zip(places, places[1:], strict=False):
        logits, cache = decode(ours.params, jnp.asarray(inputs["tokens"][:, start:stop]), cache)
        parts.append(logits)
    assert apart(np.concatenate(parts, 1), whole) < tolerance

    cache = ours.objective.cache(ours.params, {}, ROWS, 10, source)
    given = jnp.full((ROWS, 1), ours.objective.begin, jnp.int32)
    found = [np.asarray(given)]
    for _ in range(9):
        logits, cache = decode(ours.params, given, cache)
        given = logits[:, -1:].argmax(-1).astype(jnp.int32)
        found.append(np.asarray(given))
    ids, mask = (
        torch.tensor(np.asarray(value), dtype=torch.long)
        for value in (inputs["source"], within(SOURCE, SOURCE_LENGTHS))
    )
    chosen = {
        "max_new_tokens": 9,
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": None,
        "forced_eos_token_id": None,
    }
    wanted = model.generate(ids, attention_mask=mask, **chosen).numpy()
    assert np.array_equal(np.concatenate(found, 1), wanted) and len(np.unique(wanted)) > 3
