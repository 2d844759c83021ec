"""Faults of resuming, replaying and watching a run."""

from mutants.record import Mutant

RESUME, REPLAY, LOAD, DISK = (f"pretrainx/runs/{name}.py" for name in ("resume", "replay", "load", "disk"))
SINK, WATCHDOG, VERIFY, LOOP = (f"pretrainx/training/{name}.py" for name in ("sink", "watchdog", "verify", "loop"))
WRITERS = "pretrainx/training/writers.py"

RUNS = [
    Mutant(
        "refuse",
        "changes that need a flag pass without it",
        RESUME,
        "if change.kind == REFUSE and not covers(allow_change, change.key)]",
        "if False]",
        "tests/runs/test_config_changes.py::test_class_of_a_change[seed]",
    ),
    Mutant(
        "other data",
        "other data under the same config go unnoticed",
        RESUME,
        "for path, old, new in of_data:",
        "for path, old, new in ():",
        "tests/runs/test_config_changes.py::test_the_same_data_elsewhere_are_no_change",
    ),
    Mutant(
        "prefix",
        "an allowed name covers keys that only begin like it",
        RESUME,
        'key.startswith((f"{name}.", f"{name}["))',
        "key.startswith(name)",
        "tests/runs/test_config_changes.py::test_names_cover_sections_and_keys",
    ),
    Mutant(
        "forward",
        "replay rolls forward one step too few",
        REPLAY,
        "for number in range(int(state.step), step):",
        "for number in range(int(state.step), step - 1):",
        "tests/runs/test_replay.py::test_the_logged_loss_reproduces[6]",
    ),
    Mutant(
        "keys",
        "replay uses the keys of the checkpoint's step",
        REPLAY,
        "state = replace(state, step=where)",
        "state = replace(state, step=state.step)",
        "tests/runs/test_replay.py::test_rows_have_the_keys_of_the_replayed_step",
    ),
    Mutant(
        "averages",
        "a loaded run has the last parameters, not the averaged ones",
        LOAD,
        'averaged = f"ema/{path}" in stored',
        "averaged = False",
        "tests/runs/test_load.py::test_attributes_and_losses",
    ),
    Mutant(
        "room",
        "the save that is being written needs no room",
        DISK,
        "DiskNeed(size, keep + 1,",
        "DiskNeed(size, keep,",
        "tests/runs/test_dry_run.py::test_a_disk_that_is_too_small",
    ),
    Mutant(
        "queue",
        "a slow writer's queue grows without bound",
        SINK,
        "collections.deque(maxlen=capacity)",
        "collections.deque(maxlen=capacity * 1000)",
        "tests/training/test_sink.py::test_a_full_queue_drops_the_oldest",
    ),
    Mutant(
        "clock",
        "an evaluation counts as part of the step around it",
        WATCHDOG,
        "self._phase = before and (before[0], time.monotonic())",
        "self._phase = before",
        "tests/training/test_watchdog.py::test_what_it_lets_pass[inner phase]",
    ),
    Mutant(
        "backlog",
        "the watchdog counts all steps in flight as one",
        LOOP,
        "while self.ahead:",
        "while False:",
        "tests/training/test_watchdog.py::test_steps_in_flight_are_not_one_step",
    ),
    Mutant(
        "twice",
        "replay compares its first pass with itself",
        REPLAY,
        "_same(losses[name], losses_again[name])",
        "_same(losses[name], losses[name])",
        "tests/runs/test_replay.py::test_a_machine_that_gives_two_answers",
    ),
    Mutant(
        "one thread",
        "two threads write lines of one file at once",
        WRITERS,
        "self._alone = threading.Lock()",
        "self._alone = __import__('contextlib').nullcontext()",
        "tests/training/test_writers.py::test_lines_of_two_threads",
    ),
    Mutant(
        "set aside",
        "damaged steps that are set aside count as room",
        DISK,
        "bytes_under(directory / str(step)) for step in steps_in(directory))",
        "bytes_under(path) for path in directory.iterdir())",
        "tests/runs/test_checkpoints.py::test_what_takes_room",
    ),
    Mutant(
        "host checksum",
        "the host's checksum has even weights: top bits drop out",
        VERIFY,
        "dtype=np.uint64) * 2 + 1",
        "dtype=np.uint64) * 2 + 2",
        "tests/training/test_verify_checkpoint.py::test_every_flipped_bit_is_seen",
    ),
]
