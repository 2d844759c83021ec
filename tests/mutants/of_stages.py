"""Faults of layers in a pipeline."""

from mutants.record import Mutant

PIPELINE, STACKED, PARTS = "pretrainx/parallel/pipeline.py", "pretrainx/models/stacked.py", "pretrainx/runs/parts.py"
TEST = "tests/parallel/test_pipeline.py::test_"

STAGES = [
    Mutant(
        "one round",
        "the first stage takes a new piece in every round",
        PIPELINE,
        "fresh = (stage == 0) & (passed == 0)",
        "fresh = (stage == 0) & (passed >= 0)",
        TEST + "schedule",
    ),
    Mutant(
        "not dealt",
        "a stage works in all rounds on the layers that lie there",
        PIPELINE,
        "groups = [(passed * stages + stage, stage) for stage in range(stages)]",
        "groups = [(stage * rounds + passed, stage) for stage in range(stages)]",
        TEST + "schedule",
    ),
    Mutant(
        "wrong group",
        "a piece is given what other rows share",
        PIPELINE,
        "apart[np.arange(count) * groups // rows]",
        "apart[np.arange(count) % (groups // of_piece)]",
        TEST + "schedule",
    ),
    Mutant(
        "idle NaN",
        "a stage without a piece works on no numbers",
        PIPELINE,
        "first = jax.lax.stop_gradient(divided[0])",
        "first = jnp.full_like(divided[0], jnp.nan)",
        TEST + "schedule",
    ),
    Mutant(
        "local numbers",
        "layers of a stage are counted from 0",
        STACKED,
        ".clone(parent=place)(x, numbers, None",
        ".clone(parent=place)(x, numbers - numbers[0], None",
        TEST + "steps[decoder]",
    ),
    Mutant(
        "left idle",
        "rows that do not divide over the pieces are not refused",
        PARTS,
        "leaf.shape[0] % (ways * parts * pieces)",
        "leaf.shape[0] % (ways * parts)",
        "tests/runs/test_stages.py::test_refused",
    ),
]
