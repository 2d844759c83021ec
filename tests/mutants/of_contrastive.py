"""Faults of contrastive objectives and of their relatives."""

from mutants.record import Mutant

CONTRASTIVE, SIMCLR, MOCO, MOCO_V3, SIMSIAM, DINO = (
    f"pretrainx/objectives/{name}.py" for name in ("contrastive", "simclr", "moco", "moco_v3", "simsiam", "dino")
)
TEST_SIMCLR, TEST_MOCO, TEST_MOCO_V3, TEST_DINO = (
    f"tests/objectives/test_{name}.py::test_" for name in ("simclr", "moco", "moco_v3", "dino")
)
TEST_SIMSIAM = "tests/objectives/test_byol_simsiam.py::test_"

CONTRASTIVE_FAULTS = [
    Mutant(
        "own view",
        "a view is its own negative",
        CONTRASTIVE,
        "seen = jnp.repeat(valid, 2)[None] & (number[:, None] != number)",
        "seen = jnp.repeat(valid, 2)[None] | (number[:, None] == number)",
        TEST_SIMCLR + "golden_value",
    ),
    Mutant(
        "padded negative",
        "views of padded rows are negatives",
        CONTRASTIVE,
        "seen = jnp.repeat(valid, 2)[None] & (number[:, None] != number)",
        "seen = number[:, None] != number",
        TEST_SIMCLR + "rows_that_are_not_valid_are_no_negatives",
    ),
    Mutant(
        "padded key",
        "keys of padded rows enter the queue",
        MOCO,
        "queue = queue.at[oldest].set(jnp.where(valid, new, queue[oldest]).astype(queue.dtype))",
        "queue = queue.at[oldest].set(new.astype(queue.dtype))",
        TEST_MOCO + "rows_that_are_not_valid_bring_no_keys",
    ),
    Mutant(
        "queue's end",
        "what does not fit before the end of the queue is lost",
        MOCO,
        "oldest = (place + jnp.arange(len(new))) % self.queue",
        "oldest = place + jnp.arange(len(new))",
        TEST_MOCO + "another_batch_size_keeps_the_order",
    ),
    Mutant(
        "narrow teacher",
        "a teacher has the dtype of the parameters, in which it may stand still",
        CONTRASTIVE,
        "lambda x: jnp.copy(wide(x))",
        "jnp.copy",
        TEST_MOCO + "a_teacher_of_bfloat16_parameters_moves",
    ),
    Mutant(
        "unshuffled",
        "keys of permuted rows are not brought back",
        MOCO,
        "back = jnp.argsort(order)",
        "back = jnp.arange(len(order))",
        TEST_MOCO + "groups_of_the_keys_are_drawn",
    ),
    Mutant(
        "own keys",
        "queries look for the keys of their own view",
        MOCO_V3,
        "one, right = info_nce(q1, k2, valid, self.temperature)",
        "one, right = info_nce(q1, k1, valid, self.temperature)",
        TEST_MOCO_V3 + "loss_by_hand",
    ),
    Mutant(
        "teacher's step",
        "MoCo v3's teacher moves with the momentum of the step before",
        MOCO_V3,
        "self.momentum_at(step + 1)",
        "self.momentum_at(step)",
        TEST_MOCO_V3 + "teacher",
    ),
    Mutant(
        "both sides",
        "SimSiam's gradient reaches the side that is predicted",
        SIMSIAM,
        "if self.stop_gradient else lambda z: z",
        "if not self.stop_gradient else lambda z: z",
        TEST_SIMSIAM + "simsiams_gradient_stops_at_the_projection",
    ),
    Mutant(
        "same crop",
        "DINO's student is asked for the teacher's own crop too",
        DINO,
        "return jnp.where(other, pairs, 0).sum((1, 2)) / other.sum(), entropy",
        "return pairs.sum((1, 2)) / other.sum(), entropy",
        TEST_DINO + "pairs_by_hand",
    ),
]
