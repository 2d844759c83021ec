"""Faults of the queue of a study, of what is collected, and of what a sweep came to."""

from mutants.record import Mutant

SCALING = "pretrainx/scaling/"
TEST_QUEUE, TEST_STATUS, TEST_OUTCOME = (
    f"tests/scaling/test_{name}.py::test_" for name in ("queue", "status", "outcome")
)

RUN = [
    Mutant(
        "diverge again",
        "a run that diverged is tried again like one that failed",
        SCALING + "queue.py",
        "DIVERGING = (NonFiniteError.exit_code, CollapseError.exit_code)",
        "DIVERGING = ()",
        TEST_QUEUE + "done_runs_are_skipped_and_failed_ones_tried_again",
    ),
    Mutant(
        "orphans",
        "runs of a queue that was killed train on unseen",
        SCALING + "workplaces.py",
        "_LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)",
        "pass",
        TEST_QUEUE + "a_killed_queue_leaves_no_run_behind_and_two_queues_share",
    ),
    Mutant(
        "shared locks",
        "two queues train one run at once",
        SCALING + "claims.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        TEST_QUEUE + "a_killed_queue_leaves_no_run_behind_and_two_queues_share",
    ),
    Mutant(
        "early loss",
        "the loss of a run that is not at its end stands in the table",
        SCALING + "collect.py",
        'curve[-1] if curve and curve[-1]["steps"] == found.steps else {}',
        "curve[-1] if curve else {}",
        TEST_STATUS + "the_tidy_table",
    ),
    Mutant(
        "error of the sample",
        "the spread of batches is divided as if their mean were known",
        "pretrainx/evals/held_out.py",
        "len(batches) / (len(batches) - 1)",
        "1.0",
        "tests/evals/test_held_out.py::test_the_error_of_the_mean",
    ),
    Mutant(
        "stale standings",
        "a queue writes what it saw of a run once over what another queue made of it",
        SCALING + "queue.py",
        "        self.look(self.study.runs)\n        collect.collect",
        "        collect.collect",
        TEST_QUEUE + "what_another_queue_ended_stands_in_the_table",
    ),
    Mutant(
        "moving targets",
        "a sound run whose target moves is thrown away because its loss rose",
        SCALING + "status.py",
        'config["objective"]["name"] in FIXED and',
        "True and",
        TEST_STATUS + "a_rise_is_no_divergence_where_the_target_moves_or_the_held_out_loss_fell",
    ),
    Mutant(
        "unlocked commands",
        "printed commands train what is being trained already",
        SCALING + "commands.py",
        "if not claims.taken(claims.lock_path(directory, run))",
        "if run",
        TEST_STATUS + "commands_for_other_machines",
    ),
    Mutant(
        "lucky seed",
        "a setting counts by its seeds that did not diverge",
        SCALING + "outcome.py",
        "if len(self.losses) == len(self.states) else math.inf",
        "if self.losses else math.inf",
        TEST_OUTCOME + "means_over_seeds_and_no_luck",
    ),
]
