"""Random access by step: how long a batch takes, early and late."""

import statistics
import time


def check_late_steps(training):
    """A batch of step 10^7 costs what the first cost. Generous to a busy machine: reading through would take hours."""
    training.batch(0)

    def typical(first):
        times = []
        for step in range(first, first + 40):
            started = time.perf_counter()
            training.batch(step)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    assert typical(10**7) < 5 * typical(1) + 1e-3
