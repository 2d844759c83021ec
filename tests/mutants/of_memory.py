"""Faults of what a step keeps in memory: moments, chunks of the loss, what a block keeps, and what is told of it."""

from mutants.record import Mutant

MOMENTS, STACK, LAYERS = "pretrainx/optim/moments.py", "pretrainx/models/stack.py", "pretrainx/models/layers.py"
LOSS, REPLICATED = "pretrainx/objectives/cross_entropy.py", "pretrainx/training/replicated.py"
TEST_MOMENTS, TEST_REMAT = "tests/optim/test_moments.py::test_", "tests/models/test_remat.py::test_"

MEMORY = [
    Mutant(
        "nearest",
        "narrow moments are rounded to the nearest and stall",
        MOMENTS,
        "(bits + (_drawn(key, x.shape) >> 16))",
        "(bits + jnp.uint32(0x8000))",
        TEST_MOMENTS + "a_slow_average_does_not_stall",
    ),
    Mutant(
        "one draw",
        "every update rounds with the same numbers",
        MOMENTS,
        'jax.random.fold_in(jax.random.key(0), state["rate"].count)',
        "jax.random.key(0)",
        TEST_MOMENTS + "a_slow_average_does_not_stall",
    ),
    Mutant(
        "whole chunks",
        "chunks are cut out of the whole length, and hidden states change their devices",
        LOSS,
        'pieces = ways("length") if length % ways("length") == 0 else 1',
        "pieces = 1",
        "tests/objectives/test_sharded_cross_entropy.py::test_a_mesh_is_one_device[{'data': 2, 'context': 2, 'tensor': 2}-5]",
    ),
    Mutant(
        "kept too much",
        "the MLP's products are kept with attention's",
        STACK,
        '"attention": _policies.save_only_these_names(*_OF_ATTENTION),',
        '"attention": _policies.save_only_these_names(*_OF_ATTENTION, *_OF_MLP),',
        TEST_REMAT + "memory_and_recomputed_flops_by_name",
    ),
    Mutant(
        "silent copies",
        "of what is whole on every device only parameters are told",
        REPLICATED,
        'yield f"optimizer/{path}", leaf, axes.get(owners[path], ())',
        "pass",
        "tests/training/test_replicated.py::test_whole_leaves_are_told",
    ),
    Mutant(
        "split lookup",
        "ids are looked up in a table that lies over both of its sides",
        LAYERS,
        "return constrain(self.table, self.axis, None)[ids]",
        "return self.table[ids]",
        "tests/models/test_embedding_on_a_mesh.py::test_no_involuntary_rematerialization",
    ),
]
