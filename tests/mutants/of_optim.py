"""Faults of the optimizers, their groups and the schedules."""

from mutants.record import Mutant

OPTIMIZER, ALGORITHMS, MUON, PER_LAYER, FACTORED, SCHEDULES = (
    f"pretrainx/optim/{name}.py" for name in ("optimizer", "algorithms", "muon", "per_layer", "factored", "schedules")
)
SCHEDULE = "pretrainx/core/schedule.py"
TEST_OPTIMIZER, TEST_ALGORITHMS, TEST_MUON, TEST_PER_LAYER, TEST_SCHEDULES = (
    f"tests/optim/test_{name}.py::test_" for name in ("optimizer", "algorithms", "muon", "per_layer", "schedules")
)

OPTIMIZERS = [
    Mutant(
        "M12",
        "decay by rank: norms and biases of a stack",
        OPTIMIZER,
        "float(axes.role(self.by_path[path]) in self.config.decays)",
        "float(len(self.by_path[path]) > 1)",
        TEST_OPTIMIZER + "roles[adamw]",
    ),
    Mutant(
        "decayed distances",
        "a relative bias decays as a table does",
        "pretrainx/core/axes.py",
        'BIASES = (*TOGETHER, "bucket")',
        "BIASES = TOGETHER",
        TEST_OPTIMIZER + "roles_of_other_leaves",
    ),
    Mutant(
        "M13",
        "Muon on the tables, Adam on kernels",
        MUON,
        'axes.role(by_path[path]) == "kernel"',
        'axes.role(by_path[path]) == "embedding"',
        TEST_MUON + "only_hidden_kernels",
    ),
    Mutant(
        "M19",
        "a stack orthogonalised as one matrix",
        MUON,
        "return MuonDimensionNumbers(inputs, outputs)",
        "return MuonDimensionNumbers(tuple(range(inputs[-1] + 1)), outputs)",
        TEST_MUON + "a_stack_is_its_single_matrices[layers/mlp/up/kernel]",
    ),
    Mutant(
        "head kernel",
        "a head kernel's inputs and outputs mistaken",
        PER_LAYER,
        'first = unnamed + (2 if names[kept[unnamed]] == "heads" else 1)',
        "first = unnamed + 1",
        TEST_MUON + "a_stack_is_its_single_matrices[layers/attention/out/kernel]",
    ),
    Mutant(
        "groups",
        "a group's pattern is ignored",
        OPTIMIZER,
        "if group.has(path, role)]",
        "if False]",
        TEST_OPTIMIZER + "group_multiplies_rate_and_decay",
    ),
    Mutant(
        "group role",
        "a group's role is ignored",
        ALGORITHMS,
        'self.role in ("", role) and ',
        "",
        TEST_ALGORITHMS + "groups_by_role",
    ),
    Mutant(
        "factored",
        "the second moment of a bias of heads is factored",
        FACTORED,
        "per_layer.is_matrix(names) and min(",
        "len(names) > 1 and min(",
        TEST_ALGORITHMS + "optax_on_each_layer[adafactor]",
    ),
    Mutant(
        "unfolded",
        "an update is given back with its dimensions out of place",
        PER_LAYER,
        "order.index(index) for index",
        "order[index] for index",
        TEST_PER_LAYER + "folding",
    ),
    Mutant(
        "norm of a stack",
        "one trust ratio for all layers",
        PER_LAYER,
        "mapped(alone, stacks(names))(",
        "mapped(alone, ())(",
        TEST_ALGORITHMS + "lars_formula",
    ),
    Mutant(
        "trust",
        "LARS adapts norms, biases and scalars",
        ALGORITHMS,
        "lambda names: axes.role(names) in self.adapts",
        "lambda names: True",
        TEST_ALGORITHMS + "lars_formula",
    ),
    Mutant(
        "coupled",
        "coupled decay is added after momentum",
        ALGORITHMS,
        "[decay, self.direction(by_path), *rates] if",
        "[self.direction(by_path), decay, *rates] if",
        TEST_ALGORITHMS + "optax_on_each_layer[sgd coupled]",
    ),
    Mutant(
        "moments",
        "rows of a factored moment are laid out like the parameter",
        "pretrainx/optim/moments.py",
        "return end if end and leaf.shape == shapes[end] else",
        "return end if end else",
        TEST_ALGORITHMS + "on_a_mesh[adafactor]",
    ),
    Mutant(
        "wsd",
        "the decay starts at the end of the warm-up",
        SCHEDULE,
        "(_real(step) - (self.steps - self.decay))",
        "(_real(step) - self.warmup)",
        TEST_SCHEDULES + "formula[wsd share]",
    ),
    Mutant(
        "pattern",
        "a pattern that matches nothing passes",
        "pretrainx/core/paths.py",
        "    if not found:\n",
        "    if False:\n",
        TEST_OPTIMIZER + "group_matching_nothing_refused",
    ),
    Mutant(
        "clip",
        "the clip is ignored",
        OPTIMIZER,
        "if self.clip > 0 else",
        "if self.clip < 0 else",
        TEST_OPTIMIZER + "clipping_by_global_norm",
    ),
    Mutant(
        "warm-up",
        "the first update has rate zero",
        SCHEDULE,
        "(_real(step) + 1) / max(warmup, 1)",
        "_real(step) / max(warmup, 1)",
        TEST_OPTIMIZER + "warmup_and_cosine",
    ),
    Mutant(
        "M24a",
        "a schedule that is a closure",
        SCHEDULES,
        "return WarmupCosine(self.peak, self.warmup, steps, self.floor)",
        "return lambda step: WarmupCosine(self.peak, self.warmup, steps, self.floor)(step)",
        TEST_OPTIMIZER + "equal_configs_are_equal",
    ),
    Mutant(
        "M24b",
        "a module's field compared by identity",
        "pretrainx/models/layers.py",
        "@dataclass(frozen=True)\nclass Precision:",
        "@dataclass(frozen=True, eq=False)\nclass Precision:",
        "tests/objectives/test_autoregressive.py::test_equal_configs_are_equal",
    ),
    Mutant(
        "below",
        "an exclusive upper limit is inclusive",
        "pretrainx/core/config.py",
        'not value < metadata["below"]',
        'value > metadata["below"]',
        TEST_ALGORITHMS + "a_moment_that_never_forgets_is_refused[adamw]",
    ),
]
