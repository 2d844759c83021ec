"""Faults of what parameters and FLOPs are counted as."""

from mutants.record import Mutant

SIZES, CONVENTIONS = (f"pretrainx/models/{name}.py" for name in ("sizes", "sizes_conventions"))
TEST_CONVENTIONS, TEST_COUNTING = (
    "tests/models/test_sizes_conventions.py::test_",
    "tests/scaling/test_counting.py::test_",
)

COUNTING = [
    Mutant(
        "looked up",
        "tables of which rows are only taken are counted with the head",
        SIZES,
        'found["with_head"] = self.total - self.looked_up',
        'found["with_head"] = self.total',
        "tests/models/test_sizes.py::test_parameters_of_pythia",
    ),
    Mutant(
        "seen by all",
        "Kaplan's attention is not halved",
        CONVENTIONS,
        "return _hidden(config) + score_flops(config, length / 2, config.depth)",
        "return _hidden(config) + score_flops(config, length, config.depth)",
        TEST_CONVENTIONS + "flops_per_token",
    ),
    Mutant(
        "plain backward",
        "flash attention's backward pass costs twice the forward one",
        CONVENTIONS,
        "return 3 * plain + 3.5 * depth * scores",
        "return 3 * plain + 3 * depth * scores",
        TEST_CONVENTIONS + "shapes_of_gemstones",
    ),
    Mutant(
        "headless views",
        "projectors cost nothing",
        "pretrainx/objectives/contrastive.py",
        "images, size or self.size) + 6 * head",
        "images, size or self.size)",
        TEST_COUNTING + "heads_of_views",
    ),
    Mutant(
        "marks count",
        "the marks around a row are training tokens",
        "pretrainx/objectives/masked_lm.py",
        "{name: self.reads.width * flops for",
        "{name: self.length * flops for",
        TEST_COUNTING + "marks_around_a_row_are_no_training_tokens",
    ),
]
