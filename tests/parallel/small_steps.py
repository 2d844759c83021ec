"""Train steps of a small LLaMA, compiled for a mesh, and sums over their collectives."""

import functools

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.runs.compiled import abstract_batch
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import parse
from pretrainx.training import state as states
from pretrainx.training.step import make_train_step

ROWS, LENGTH, WORDS = 16, 32, 320


def sizes(found, kind, *axes):
    """Bytes of the arrays of all executions of one kind over these axes."""
    return sum(each.size * each.count for each in found if each.kind == kind and each.axes == axes)


def compiled_step(mesh, devices=None, options=None, rows=ROWS, length=LENGTH, dtype="float32", words=WORDS, **model):
    """(abstract state, mesh, text of the compiled train step) of a small LLaMA."""
    sizes = dict(name="decoder", width=32, depth=3, heads=4, tied=False, remat="full", attention="xla") | model
    form = dict(positions="rotary", norm="rms", bias=False, gated=True, activation="silu")
    recipe = parse(
        dict(
            model=sizes | form,
            data=dict(name="text", vocab_size=words, length=length),
            train=dict(steps=1000, batch_size=rows),
            precision=dict(params="float32", compute=dtype),
            objective=dict(name="autoregressive", loss=dict(chunks=1)),
            mesh=mesh,
        )
    )
    parts = assemble(recipe, Vocabulary(words, (("pad", 0), ("eos", 1))), devices)
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    batch = abstract_batch(parts, rows)
    step = make_train_step(parts.objective, parts.optimizer, parts.options, like)
    return like, parts.rules.mesh, step.lower(like, batch).compile(compiler_options=options).as_text()


@functools.cache
def compiled_on(**mesh):
    """The same on simulated devices, once for each mesh."""
    return compiled_step(mesh)
