"""Faults of attention over rows that are laid over devices, and of the TPU's kernel."""

from mutants.record import Mutant

CONTEXT, SPLASH, SEQUENCE = (
    "pretrainx/models/context.py",
    "pretrainx/models/splash.py",
    "pretrainx/parallel/sequence.py",
)
TEST_SEQUENCE = "tests/parallel/test_sequence.py::test_"

CONTEXT_FAULTS = [
    Mutant(
        "gradients of strangers",
        "gradients of keys stay with the last device of a ring that saw them",
        CONTEXT,
        "course.count, -course.hops)",
        "course.count, 0)",
        TEST_SEQUENCE + "a_ring",
    ),
    Mutant(
        "one hop short",
        "keys do not travel as far as a window reaches",
        CONTEXT,
        "-(-(window - 1) // size)",
        "(window - 1) // size",
        TEST_SEQUENCE + "every_form[window-fsdp-context-ring]",
    ),
    Mutant(
        "all at the start",
        "queries of later devices take themselves for the row's first",
        CONTEXT,
        "sequence.own(axes) * query.shape[1]",
        "0 * sequence.own(axes)",
        TEST_SEQUENCE + "every_form[causal-fsdp-context-gather]",
    ),
    Mutant(
        "replicated in silence",
        "rows that do not divide over the context axis are computed whole on each device",
        SEQUENCE,
        "if odd and rules.strict:",
        "if odd and not rules:",
        TEST_SEQUENCE + "rows_that_do_not_divide_are_refused[8-False]",
    ),
    Mutant(
        "wider window",
        "the TPU's kernel sees one token more than the window",
        SPLASH,
        "(window - 1, 0)",
        "(window, 0)",
        "tests/models/test_splash.py::test_as_the_plain_kernel[window, shared heads on a mesh]",
    ),
]
