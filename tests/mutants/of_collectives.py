"""Faults of what a step is said to communicate, and of its floor."""

from mutants.record import Mutant

COLLECTIVES, COMMUNICATION = (f"pretrainx/parallel/{name}.py" for name in ("collectives", "communication"))
TEST = "tests/parallel/test_collectives.py::test_"

COMMUNICATED = [
    Mutant(
        "one trip",
        "what a loop communicates is counted once",
        COLLECTIVES,
        "count=each.count * (1 if n is None else n)",
        "count=each.count",
        TEST + "every_kind_in_loops_equals_a_sum_by_hand",
    ),
    Mutant(
        "half a reduction",
        "an all-reduce scatters and does not gather",
        COLLECTIVES,
        '"all-reduce": 2',
        '"all-reduce": 1',
        TEST + "every_kind_in_loops_equals_a_sum_by_hand",
    ),
    Mutant(
        "every piece",
        "a collective is counted in each fusion that it is spread over",
        COLLECTIVES,
        "if chain and chain in pieces:",
        "if chain is None:",
        TEST + "forms_of_tpu_programs",
    ),
    Mutant(
        "the counter's start",
        "loops start at 0",
        "pretrainx/parallel/hlo.py",
        "math.ceil((end - begin) / step)",
        "math.ceil(end / step)",
        TEST + "forms_of_tpu_programs",
    ),
    Mutant(
        "network for each",
        "every device of a slice sends the whole across",
        "pretrainx/runs/roofline.py",
        "passes * size / members * (parts - 1) / parts",
        "passes * size * (parts - 1) / parts",
        "tests/runs/test_roofline.py::test_what_stays_inside_and_what_goes_across",
    ),
    Mutant(
        "forward only",
        "blocks are gathered once a step",
        COMMUNICATION,
        "2 * sizes.layers,",
        "sizes.layers,",
        "tests/parallel/test_communication.py::test_weights_alone",
    ),
    Mutant(
        "one's own slice",
        "what goes to other slices is not read",
        COLLECTIVES,
        'elif line.opcode == "send" and',
        'elif line.opcode == "sent" and',
        TEST + "what_goes_to_other_slices",
    ),
    Mutant(
        "places of the mesh",
        "numbers inside a slice are taken for places of the whole mesh",
        COLLECTIVES,
        "        groups = inside[_numbers(",
        "        groups = np.arange(mesh.size)[_numbers(",
        TEST + "what_goes_to_other_slices",
    ),
]
