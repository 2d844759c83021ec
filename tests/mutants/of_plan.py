"""Faults of described machines, of what a plan assumes, and of what it counts."""

from mutants.record import Mutant

MACHINES, MESH = "pretrainx/parallel/machines.py", "pretrainx/parallel/mesh.py"
OPERATIONS, ASSUMED, CHANGES = (f"pretrainx/runs/{name}.py" for name in ("operations", "assumed", "plan_changes"))
TEST_MACHINES, TEST_PLAN = "tests/parallel/test_machines.py::test_", "tests/runs/test_plan.py::test_"

PLANS = [
    Mutant(
        "both ways",
        "links carry what vendors state of both directions",
        MACHINES,
        "return self.generation.link * self.generation.links / self.generation.devices",
        "return 2 * self.generation.link * self.generation.links / self.generation.devices",
        TEST_MACHINES + "rates_are_of_a_device_and_of_one_direction",
    ),
    Mutant(
        "inner slices",
        "the axis that shards parameters spans the slow network first",
        MESH,
        'OUTER = ("data", "stage", "fsdp")',
        'OUTER = ("fsdp", "stage", "data")',
        TEST_MACHINES + "which_axes_span_slices",
    ),
    Mutant(
        "loop once",
        "of a loop one turn is counted",
        OPERATIONS,
        'return parameters["length"] * matmul_flops(',
        "return matmul_flops(",
        "tests/runs/test_operations.py::test_products_and_loops",
    ),
    Mutant(
        "rising spans",
        "the first sentinel is assumed to be the one with the least id",
        ASSUMED,
        "range(size - 1, size - 1 - data.sentinels, -1)",
        "range(size - data.sentinels, size)",
        "tests/runs/test_assumed.py::test_vocabularies_are_as_tokenizers_number_them",
    ),
    Mutant(
        "one for all",
        "replicas that train apart are planned as one",
        "pretrainx/runs/plan.py",
        "parts = replicas.in_replicas(recipe, assemble(recipe, about, devices))",
        "parts = assemble(recipe, about, devices)",
        TEST_PLAN + "replicas_that_train_apart_hold_more",
    ),
    Mutant(
        "asked once",
        "described devices' programs are kept on disk where the process has compiled before",
        "pretrainx/parallel/compilation.py",
        "    reset_cache()  # else",
        "    pass  # else",
        "tests/parallel/test_compilation.py::test_a_process_that_keeps_programs_can_stop_and_go_on",
    ),
    Mutant(
        "any change",
        "a change is named that does not fit",
        CHANGES,
        "        if found.fits:\n",
        "        if found.peak:\n",
        TEST_PLAN + "the_nearest_change_is_the_first_that_fits",
    ),
    Mutant(
        "every block first",
        "in a block of queries each sees what the first ones may",
        "pretrainx/models/streamed.py",
        "mask = mask_of(first + jnp.arange(block))",
        "mask = mask_of(jnp.arange(block))",
        "tests/models/test_streamed.py::test_it_is_attention",
    ),
    Mutant(
        "bubble twice",
        "the ticks in vain are added to what is executed, which has them",
        "pretrainx/runs/roofline.py",
        "        return max(self.compute, self.memory, self.interconnect)\n",
        "        return max(self.compute, self.memory, self.interconnect) / (1 - self.bubble)\n",
        "tests/runs/test_roofline.py::test_a_bubble_is_in_the_operations_already",
    ),
    Mutant(
        "both ends",
        "a permutation has all links of its side",
        "pretrainx/runs/roofline.py",
        '    if collective.kind == "collective-permute":\n        return link\n',
        "",
        "tests/runs/test_roofline.py::test_a_permutation_goes_one_way",
    ),
    Mutant(
        "every axis",
        "what a device does in a shard_map counts for all devices, whoever divides it further",
        OPERATIONS,
        'for axis in parameters["newly_manual_axes"])',
        'for axis in parameters["mesh"].axis_names)',
        "tests/runs/test_operations.py::test_parts_of_devices_count_for_all",
    ),
]
