"""Models of pictures and captions: the same random weights, pixels and tokens in a reference and in ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from interop.made import tokenizer_json
from parity.pictured import Ours as OursOfPictures
from parity.reference import VOCAB, apart
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import Observation
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.interop import tensors
from pretrainx.objectives import clip, siglip
from pretrainx.objectives.image_text import vectors_of
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs.interop import export_model, import_model
from pretrainx.runs.load import load

# Heads of four and of nine, three patches a side, six pairs: nothing is a power of two.
TEXT = {"vocab_size": VOCAB, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 5, "max_position_embeddings": 13}
VISION = {"hidden_size": 27, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION |= {"image_size": 15, "patch_size": 5}
SPECIALS = {"pad": 0, "eos": 1, "bos": 3}
ROWS, LENGTH = 6, 13
LENGTHS = np.array([13, 4, 9, 13, 7, 3], np.int32)
RNG = np.random.default_rng(11)
IMAGES = RNG.standard_normal((ROWS, 15, 15, 3)).astype(np.float16).astype(np.float64)
OBJECTIVES = {clip.ClipConfig: clip.Clip, siglip.SiglipConfig: siglip.Siglip}
# How all pairs are scored, and over how many devices: at once, in blocks of fewer rows than there are, or around a ring.
FORMS = {"whole": ({}, 1), "blocks": ({"block": 2}, 1), "devices": ({"block": 1}, 3), "ring": ({"form": "ring"}, 3)}


def over(devices):
    """A context in which rows of a batch lie over so many devices."""
    return Rules(make_mesh(MeshConfig(data=devices), jax.devices()[:devices])).bound()


def captions(specials=SPECIALS, begin=True, lengths=LENGTHS):
    """int32[B, T]: [bos] ids [eos] and padding."""
    tokens = np.random.default_rng(12).integers(6, VOCAB - 1, (ROWS, LENGTH)).astype(np.int32)
    if begin:
        tokens[:, 0] = specials["bos"]
    tokens[np.arange(ROWS), lengths - 1] = specials["eos"]
    return np.where(np.arange(LENGTH) < lengths[:, None], tokens, specials["pad"])


def vocabulary(specials=SPECIALS):
    return Vocabulary(VOCAB, tuple(specials.items()))


class Ours(OursOfPictures):
    """A model that `interop` has read, under an objective of the section `config`."""

    def __init__(self, read, config, specials=SPECIALS):
        self.config, self.specials = config, specials

        def build(model, precision):
            about = Pairs(model.images, vocabulary(specials))
            return config.build(model.model, about, LENGTH, 1, precision)

        super().__init__(read, build)

    def observation(self, images, tokens):
        """What the train step makes of pictures and captions, without any augmentation."""
        inputs = {"image": images, "tokens": tokens}
        given = {name: jnp.asarray(value) for name, value in inputs.items()}
        row = jax.vmap(lambda row: (self.objective.targets(row), self.objective.weights(row)))
        targets, more = row(given)
        weights = {"contrastive": np.ones(len(images), np.float32), **more}
        self.asked = {"inputs": inputs, "targets": targets, "weights": weights}
        return Observation(given, targets, jax.tree.map(jnp.asarray, weights), jnp.ones(len(images), bool))

    def terms(self, params, observation, form="whole", **changes):
        """{term: its mean}, through `encode` and `couple` as the train step calls them."""
        fields, count = FORMS[form]
        objective = dataclasses.replace(self.objective, config=dataclasses.replace(self.config, **fields, **changes))
        with over(count):
            coded = objective.encode(params, {}, observation, None, 0, train=False)
            coupled = objective.couple(params, {}, coded.representations, observation, 0)
        totals = coded.totals | coupled.totals
        return {
            term.name: term.at(0) * totals[term.name] / observation.weights[term.name].sum() for term in objective.terms
        }

    def outputs(self, params, observation):
        """{"image", "text": [B, E], "logits": [B, B]} and of CoCa "words": [B, T, V]."""
        apply, inputs = self.objective.model.apply, observation.inputs
        found = self.objective.encode(params, {}, observation, None, 0, train=False).representations
        space = params["space"]
        logits = jnp.exp(space["log_scale"]) * found["image"] @ found["text"].T + space.get("offset", 0.0)
        found = {"image": found["image"], "text": found["text"], "logits": logits}
        if "decoder" in params:
            hidden = apply({"params": params}, inputs["image"], inputs["tokens"])["hidden"][:, :-1]
            found["words"] = apply({"params": params}, hidden, method="logits")[..., :VOCAB]
        return found

    def gradients(self, observation, form="whole"):
        """(the loss, {the reference's name: gradient in its layout})"""
        loss = lambda params: sum(self.terms(params, observation, form).values())
        value, tree = jax.jit(jax.value_and_grad(loss))(self.params)
        return float(value), self.named(tree)

    def scored(self, images, tokens):
        """(outputs, loss, gradients); the forms of scoring agree on the last two."""
        observation = self.observation(images, tokens)
        value, gradients = self.gradients(observation)
        for form in list(FORMS)[1:]:
            other, leaves = self.gradients(observation, form)
            np.testing.assert_allclose(other, value, rtol=1e-12)
            for name, leaf in leaves.items():
                np.testing.assert_allclose(leaf, gradients[name], rtol=1e-9, atol=1e-11, err_msg=name)
        return jax.jit(self.outputs)(self.params, observation), value, gradients

    def named(self, tree):
        """Our leaves, or their gradients, under the reference's names and in its layout."""
        table = self.family.table(self.read.config, VOCAB, VOCAB, LENGTH)
        return tensors.write(table, tree, "gradients")


def compare_losses(config, form, theirs, torch):
    """Loss and its gradients of vectors and scalars alone; theirs(image, text, scale, offset) -> tensor."""
    image, text = np.random.default_rng(13).standard_normal((2, ROWS, 7))
    scalars = {"log_scale": 1.3, "offset": -2.1}
    given = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in scalars.items()}
    raw = [torch.tensor(x, requires_grad=True) for x in (image, text)]
    unit = [torch.nn.functional.normalize(x, dim=1) for x in raw]
    loss = theirs(*unit, given["log_scale"].exp(), given["offset"])
    loss.backward()
    fields, count = FORMS[form]
    config = dataclasses.replace(config, **fields)
    objective = OBJECTIVES[type(config)](None, None, vocabulary(), LENGTH, 1, None, config)
    tokens = jnp.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    observation = Observation({"tokens": tokens}, {}, {"contrastive": jnp.ones(ROWS)}, jnp.ones(ROWS, bool))
    known = scalars if config.start_offset is not None else {"log_scale": scalars["log_scale"]}

    def ours(space, image, text):
        space = {name: jnp.asarray(value) for name, value in space.items()}
        vectors = vectors_of({"image": image, "text": text})
        with over(count):
            coupled = objective.couple({"space": space}, {}, vectors, observation, 0)
        return coupled.totals["contrastive"] / ROWS

    value, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(known, jnp.asarray(image), jnp.asarray(text))
    np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
    for found, wanted in zip(gradients[1:], raw, strict=True):
        np.testing.assert_allclose(found, wanted.grad.numpy(), atol=1e-12)
    for name in known:
        np.testing.assert_allclose(gradients[0][name], given[name].grad.item(), rtol=1e-11)


# Bytes, then the special tokens.
WORDS = 258


def compare_commands(folder, specials, answers, begin=True, padding=257):
    """Asserts that the run imported from folder/hf answers as the reference does; where it was exported to.

    specials: names of the tokens behind the bytes; answers(pixels, tokens) -> the reference's outputs; padding: the
    id that it fills captions up with, which the tokenizer's file does not have.
    """
    (folder / "hf" / "tokenizer.json").write_text(tokenizer_json(specials))
    import_model(folder / "hf", folder / "run", say=lambda line: None)
    run = load(folder / "run")
    pad, mean, std = run.tokenizer.vocabulary.special("pad"), run.about.images.mean, run.about.images.std
    ends = {name: token for name, token in run.tokenizer.vocabulary.specials if name in ("bos", "eos")}
    tokens = captions(ends | {"pad": pad}, begin)
    given = np.random.default_rng(14).integers(0, 256, (ROWS, 15, 15, 3), dtype=np.uint8)
    wanted = answers((given / 255 - np.array(mean)) / np.array(std), np.where(tokens == pad, padding, tokens))
    for name, found in run.outputs({"image": given, "tokens": tokens}, ("image", "text")).items():
        assert apart(found, wanted[name].detach().numpy()) < 1e-5, name
    export_model(folder / "run", folder / "out", say=lambda line: None)
    return folder / "out"


def compare_exported(model, folder):
    """Asserts that the reference's class reads back what was exported, parameter by parameter."""
    import torch

    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    given = dict(model.named_parameters())
    assert all(torch.equal(given[name], value) for name, value in loaded.named_parameters())
