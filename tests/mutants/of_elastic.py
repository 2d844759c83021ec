"""Faults of replicas that train apart: their draws, their meetings, what crosses the slow link, where a run goes on."""

from mutants.record import Mutant

LOCAL = "pretrainx/training/local_sgd.py"
TEST = "tests/training/test_local_sgd.py::test_"

ELASTIC = [
    Mutant(
        "alike draws",
        "replicas draw for their rows as if they were the first of the batch",
        LOCAL,
        "keys.reshape(self.replicas, -1)[self.number]",
        "keys.reshape(self.replicas, -1)[0]",
        TEST + "meeting_after_each_step_is_data_parallelism[four devices]",
    ),
    Mutant(
        "plain momentum",
        "the outer momentum is not Nesterov's",
        LOCAL,
        "self.local.momentum or None, nesterov=True",
        "self.local.momentum or None, nesterov=False",
        TEST + "a_round_is_what_replicas_do_by_themselves",
    ),
    Mutant(
        "no return",
        "replicas go on from where they are instead of the outer parameters",
        LOCAL,
        'moved | {"params": copies(params, replicas)}',
        "moved",
        TEST + "a_round_is_what_replicas_do_by_themselves",
    ),
    Mutant(
        "hidden link",
        "what replicas measure is gathered in every step",
        LOCAL,
        "out_shardings=(shardings, over_replicas(whole))",
        "out_shardings=(shardings, whole)",
        TEST + "only_the_outer_step_crosses_the_slow_link",
    ),
    Mutant(
        "own count",
        "the step that a resumed run is at is forgotten: rounds begin where it was started",
        LOCAL,
        "(self.done if state.step is self.newest else int(state.step))",
        "self.done",
        TEST + "a_run_of_replicas_resumes_between_two_outer_steps",
    ),
]
