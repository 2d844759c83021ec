"""Faults in how processes find each other and agree."""

from mutants.record import Mutant

DISTRIBUTED, SCHEDULERS = "pretrainx/parallel/distributed.py", "pretrainx/parallel/schedulers.py"
TEST, LAUNCH = "tests/parallel/test_distributed.py::test_", "tests/launch/test_"

PROCESSES = [
    Mutant(
        "decides",
        "each process keeps what it decided itself",
        DISTRIBUTED,
        '{"value": value, "error": _plain(error)}, seconds)[0]',
        '{"value": value, "error": _plain(error)}, seconds)[index()]',
        TEST + "two_processes_agree",
    ),
    Mutant(
        "trouble",
        "only process 0's trouble counts",
        DISTRIBUTED,
        "next((text for text in exchange(purpose, trouble) if text)",
        "next((text for text in exchange(purpose, trouble)[:1] if text)",
        TEST + "two_processes_agree",
    ),
    Mutant(
        "relay",
        "an error loses its class, and exit code, on the way",
        DISTRIBUTED,
        "_kinds(PretrainxError)[kind](what",
        "PretrainxError(what",
        TEST + "two_processes_agree",
    ),
    Mutant(
        "leaving",
        "a process that failed waits for the others",
        DISTRIBUTED,
        "        os._exit(code)",
        "        return",
        TEST + "who_does_not_come_is_named_and_a_failed_process_does_not_wait",
    ),
    Mutant(
        "step",
        "a batch script outside srun takes itself for many",
        SCHEDULERS,
        'if "SLURM_STEP_NODELIST" in environ and',
        "if",
        TEST + "who_is_there",
    ),
    Mutant(
        "one-GPU",
        "a task that sees one GPU looks for its number",
        SCHEDULERS,
        "(tasks == 1 or gpus == 1)",
        "(tasks == 1)",
        TEST + "who_is_there",
    ),
    Mutant(
        "sums",
        "each process judges a step's checksums for itself",
        "pretrainx/training/restore.py",
        'if differing := distributed.first_trouble("checksums", differing):',
        "if differing:",
        TEST + "two_processes_agree_on_what_is_saved_and_whole",
    ),
    Mutant(
        "saved",
        "each process judges for itself whether a step is saved",
        "pretrainx/training/checkpoint.py",
        'if distributed.decided("saved", lambda: step in steps_in(self.directory) or step == self.in_flight):',
        "if step in steps_in(self.directory) or step == self.in_flight:",
        TEST + "two_processes_agree_on_what_is_saved_and_whole",
    ),
    Mutant(
        "budget",
        "preemptions use up the limit of crashes",
        "launch/local.py",
        "        elif code in LIMITED:\n            in_vain",
        "        else:\n            in_vain",
        LAUNCH + "local.py::test_preemptions_leave_the_limit_as_it_is",
    ),
    Mutant(
        "first code",
        "under SLURM the highest exit code counts, not the first",
        "launch/slurm.sbatch",
        'if [ -s "$record" ]; then',
        "if false; then",
        LAUNCH + "slurm.py::test_the_first_failure_by_time_counts[2-134-False]",
    ),
    Mutant(
        "scancel",
        "a cancelled job comes back",
        "launch/slurm.sbatch",
        "CANCELLED* | COMPLETING*)",
        "CANCELLED*)",
        LAUNCH + "slurm.py::test_a_cancelled_job_does_not_come_back[COMPLETING-False]",
    ),
]
