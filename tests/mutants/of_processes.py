"""Faults in how processes find each other and agree."""

from mutants.record import Mutant

DISTRIBUTED, SCHEDULERS = "pretrainx/parallel/distributed.py", "pretrainx/parallel/schedulers.py"
TEST = "tests/parallel/test_distributed.py::test_"

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
]
