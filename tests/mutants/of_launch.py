"""Faults of launchers, of traces and of the accounting of time."""

from mutants.record import Mutant

GOODPUT, LOOP = "pretrainx/report/goodput.py", "pretrainx/training/loop.py"
TEST_GOODPUT, TEST_PROFILE = "tests/report/test_goodput.py::test_", "tests/training/test_profile.py::test_"

LAUNCH = [
    Mutant(
        "lost is good",
        "steps that are trained again count as if they were kept",
        GOODPUT,
        "lost = again * parts[part] if part in TRAINED_AGAIN else 0.0",
        "lost = 0.0 * again * parts[part] if part in TRAINED_AGAIN else 0.0",
        TEST_GOODPUT + "a_run_that_was_killed_and_went_on",
    ),
    Mutant(
        "next start only",
        "what a later start than the next takes back is not seen",
        GOODPUT,
        "for later in places[index + 1 :]",
        "for later in places[index + 1 : index + 2]",
        TEST_GOODPUT + "steps_that_a_third_start_takes_back_from_the_first",
    ),
    Mutant(
        "evaluated in a step",
        "the time of an evaluation is booked to what comes after it",
        LOOP,
        'self.clock.book("eval")',
        "pass",
        TEST_PROFILE + "the_parts_add_up_to_the_wall_time",
    ),
    Mutant(
        "one step more",
        "the trace ends a step late",
        "pretrainx/training/profile.py",
        "if not self._under_way or done < self.config.stop:",
        "if not self._under_way or done <= self.config.stop:",
        TEST_PROFILE + "the_trace_holds_the_steps_that_were_asked_for",
    ),
    Mutant(
        "fleet forgets",
        "a preempted run of a fleet counts as failed",
        "launch/ray_job.py",
        "if code == PREEMPTED:",
        "if code == PREEMPTED and False:",
        "tests/launch/test_ray_job.py::test_runs_are_given_out_again_when_preempted_and_skipped_when_done",
    ),
]
