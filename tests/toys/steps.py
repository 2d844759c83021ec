"""The train step of an objective compiled for a mesh, without a state; as a script, that of a decoder on a cube of devices."""

import jax

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.optim.schedules import ConstantConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from pretrainx.training.step import Options, make_train_step

QUICK = {"exec_time_optimization_effort": -1.0}  # for a TPU's compiler: a tenth of the time


def lowered(objective, rules, rows, microbatches=1):
    """(the state, abstract; its train step for a batch of `rows`, not compiled yet)"""
    options, found = Options(rules, microbatches=microbatches), states.layout(objective, rows)
    optimizer = Optimizer(AdamWConfig(), ConstantConfig().over(10), 1.0, found.params_axes)
    like = states.abstract(objective, optimizer, options, found)
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rules.rows(leaf.shape))
    batch = jax.tree.map(place, objective.batch_spec(rows))
    return like, make_train_step(objective, optimizer, options, like).lower(like, batch)


def compiled(objective, rules, rows, options=None, microbatches=1):
    """The program; `options` are the compiler's."""
    return lowered(objective, rules, rows, microbatches)[1].compile(compiler_options=options)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update(
        "jax_enable_compilation_cache", False
    )  # what comes from there was compiled, and warned of, before
    model = DecoderConfig(width=32, depth=1, heads=4, unroll=1)
    objective = AutoregressiveConfig().build(model, Vocabulary(512, (("pad", 0), ("eos", 1))), 32, Precision())
    print(len(compiled(objective, Rules(make_mesh(MeshConfig(2, 2, 2))), 8).as_text()))
