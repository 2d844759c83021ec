"""Models of pictures: the same random weights and pixels in a reference and in ours, gradients under the reference's names."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from parity import frozen
from parity.reference import apart
from pretrainx.core import axes, paths
from pretrainx.core.records import Observation
from pretrainx.interop import directory, tensors
from pretrainx.interop.directory import FAMILIES
from pretrainx.models.layers import Precision

# Three patches a side, heads of 12: nothing is a power of two. Two of the reference's dropouts are off by default.
SIZES = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 44}
SIZES |= {"image_size": 15, "patch_size": 5, "layer_norm_eps": 1e-6}
ROWS, PATCHES = 3, 9
RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((ROWS, 15, 15, 3)).astype(np.float32).astype(np.float64)


def pixels(images=IMAGES):
    """Our [B, S, S, C] as the reference's [B, C, S, S], float64."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)), dtype=torch.float64)


class Ours:
    """A model that `interop` has read, under the objective that `build` makes of it."""

    def __init__(self, read, build):
        self.read = read
        self.family = FAMILIES[self.read.facts["model_type"]]
        self.params = jax.tree.map(jnp.asarray, self.read.params)
        self.objective = build(self.read.config, Precision("float64", "float64"))
        made = jax.eval_shape(lambda: axes.unbox(self.objective.init(jax.random.key(0), None)))
        made.pop("tokenizer", None)
        shapes = lambda tree: {path: leaf.shape for path, leaf in paths.leaves(tree)}
        assert shapes(made) == shapes(self.params)

    @classmethod
    def of(cls, model, folder, *arguments):
        """Of what the reference saves."""
        model.save_pretrained(folder)
        made = cls(directory.read(folder), *arguments)
        made.folder = folder
        return made

    def scored(self, predict, extras, inputs, targets, weights):
        """(predict(params), the mean loss, {a full name of the family: gradient in the reference's layout})"""
        self.asked = {"extras": extras, "inputs": inputs, "targets": targets, "weights": weights}
        valid = np.ones(ROWS, bool)
        observation = jax.tree.map(jnp.asarray, Observation(inputs, targets, weights, valid))
        (term,) = weights

        def loss(params):
            totals = self.objective.encode(params, extras, observation, None, 0, train=False).totals
            return totals[term] / observation.weights[term].sum()

        run = jax.jit(lambda params: (predict(params), jax.value_and_grad(loss)(params)))
        outputs, (value, tree) = run(self.params)
        table = self.family.table(self.read.config, self.read.vocab_size, self.read.vocab_size, 0)
        return outputs, float(value), tensors.write(table, tree, "gradients")


def compare(ours, model, found, outputs, loss, tolerance=1e-9):
    """Asserts that our outputs, loss and gradient leaves, `found`, are the reference's (tensors that carry a graph); outputs
    are one array or several by name."""
    model.zero_grad()
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    full = ours.family.full(trained)
    wanted = {full[name]: parameter.grad.numpy() for name, parameter in trained.items()}
    frozen.keep(ours.folder, ours.read.facts["config"], ours.asked, loss.item(), wanted)
    our_outputs, our_loss, gradients = found
    assert gradients.keys() == wanted.keys()
    # A key's bias moves all scores of a query alike: no gradient but rounding, in units of the query's.
    unit = lambda name: np.abs(wanted[name.replace(".key.", ".query.").replace(".k_proj.", ".q_proj.")]).max()
    assert all(unit(name) > 1e-6 for name in wanted)
    if not isinstance(outputs, dict):
        our_outputs, outputs = {"outputs": our_outputs}, {"outputs": outputs}
    assert our_outputs.keys() == outputs.keys()
    errors = {name: apart(our_outputs[name], output.detach().numpy()) for name, output in outputs.items()}
    errors["loss"] = abs(our_loss / loss.item() - 1)
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    errors |= {name: np.abs(gradients[name] - wanted[name]).max() / unit(name) for name in wanted}
    worst = max(errors, key=errors.get)
    print(f"{len(wanted)} gradients; {said}, worst {worst} {errors[worst]:.1e}")
    assert errors[worst] < tolerance, {name: error for name, error in errors.items() if error >= tolerance}


def round_trip(model, folder, special=None):
    """What is read and written again has the same numbers bit for bit, says the same, and its class reads it; so it does
    when nothing is known of where the model came from; special: the ids that are written then."""
    import torch
    from safetensors.numpy import load_file

    model.save_pretrained(folder / "hf")
    read = directory.read(folder / "hf")
    codes = {"ids": read.vocab_size, "vocab_size": read.vocab_size, "max_length": read.config.max_length}
    directory.write(folder / "again", read.config, read.params, **codes, facts=read.facts)
    directory.write(folder / "ours", read.config, read.params, **codes, special=special)
    before, after = (load_file(folder / name / "model.safetensors") for name in ("hf", "again"))
    family = FAMILIES[read.facts["model_type"]]
    before = {family.stored(read.config, full): before[name] for name, full in family.full(before).items()}
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    first, second, made = (json.loads((folder / name / "config.json").read_text()) for name in ("hf", "again", "ours"))
    assert first == second and made["architectures"] == [type(model).__name__]
    assert directory.read(folder / "ours").config == read.config
    for name in ("again", "ours"):
        loaded, info = type(model).from_pretrained(folder / name, output_loading_info=True)
        assert not any(info.values()), info
        given = dict(model.named_parameters())
        assert all(torch.equal(given[key], value) for key, value in loaded.named_parameters())
        yield loaded
