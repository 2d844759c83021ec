"""The real train step, compiled ahead of time for devices that need not be there, and what the compiler says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from pretrainx.core.errors import OutOfMemoryError
from pretrainx.core.leaves import bytes_on_device
from pretrainx.parallel.compilation import uncached
from pretrainx.runs.operations import matmul_flops
from pretrainx.runs.parts import Parts
from pretrainx.runs.replicas import step_of, traced
from pretrainx.training import state as states

# Of XLA's exec_time_optimization_effort: a tenth of the time, peaks within some percent of full effort.
LOW_EFFORT = -1.0
# "(32.31G) exceeds available HBM (15.75G)", "Used 32.31G of 15.75G hbm"
SHORTAGES = (
    re.compile(r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)"),
    re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm"),
)
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
REMATERIALIZED = "Involuntary full rematerialization"


@dataclass(frozen=True)
class Compiled:
    """What is known of a step's program; sizes are bytes on one device.

    Attributes:
      counted: {kind: bytes} of what the state and the batch hold, from shapes and shardings: see `counted_bytes`.
      peak: the most that is held at once; where `limit`, what would have been; 0 where the compiler tells no sizes.
      argument, temporary, output: as the compiler has them; output without what takes the place of donated inputs. 0 where it
        gave up, or tells no sizes.
      limit: what it took the device to have, where it gave up for lack of memory; else 0.
      flops: of the matrix products of a whole step on all devices, recomputation included.
      seconds: that compiling took.
      text: the optimised program, "" where there is none, or where nobody asked for it.
      warnings: what the partitioner could not do well, each line once.
    """

    counted: dict[str, int]
    peak: int
    argument: int = 0
    temporary: int = 0
    output: int = 0
    limit: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    text: str = dataclasses.field(default="", repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def transient(self) -> int:
        """What is left of the peak beside state, batch and gradients: activations and the compiler's temporaries.

        Gradients are counted as if all were there at the peak. Where the compiler never holds them all at once, this is too
        small by as much, and never below 0.
        """
        return max(0, self.peak - sum(self.counted.values()))


def counted_bytes(like: states.TrainState, batch: dict) -> dict[str, int]:
    """{kind: bytes on one device} of a state and a batch, abstract ones with shardings. Gradients are as large as what is
    trained; frozen parameters are parameters."""
    of = bytes_on_device
    return {
        "parameters": of(like.params) + of(like.frozen),
        "optimizer": of(like.opt_state),
        "gradients": of(like.params),
        "averages": of(like.ema),
        "extras": of(like.extras) + of(like.guard) + of(like.step),
        "batch": of(batch),
    }


def abstract_batch(parts: Parts, rows: int) -> dict:
    """The batch of `rows` as jax.ShapeDtypeStruct leaves, laid out as the run would have it."""
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parts.rules.rows(leaf.shape))
    return jax.tree.map(place, parts.objective.batch_spec(rows))


def compile_step(
    parts: Parts, like: states.TrainState, rows: int, effort: str = "full", ahead: bool = False
) -> Compiled:
    """Compiles the step of `parts` for the devices of its mesh.

    `ahead`: they are described, not there: the program is not kept on disk, and what the compiler writes to stderr is read.
    `effort` "low" saves the compiler's optimisation, where it can be saved (on TPUs). A program that is too large for the
    device is an answer (`limit` is set), no error.
    """
    batch = abstract_batch(parts, rows)
    counted = counted_bytes(like, batch)
    program = traced(step_of(parts, like), like, batch)
    flops = matmul_flops(program.jaxpr)
    tpu = parts.rules.mesh.devices.flat[0].platform == "tpu"
    options = {"exec_time_optimization_effort": LOW_EFFORT} if effort == "low" and tpu else None
    started, said = time.perf_counter(), []
    with listening(said) if ahead else contextlib.nullcontext():
        try:
            program = program.lower().compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            found = shortage(str(error))
            if found is None:
                raise
            seconds = time.perf_counter() - started
            return Compiled(counted, found[0], limit=found[1], flops=flops, seconds=seconds, warnings=complaints(said))
    seconds = time.perf_counter() - started
    found, text = program.memory_analysis(), program.as_text() if ahead else ""
    if found is None:
        return Compiled(counted, 0, flops=flops, seconds=seconds, text=text, warnings=complaints(said))
    # The state is donated: its outputs take the place of its inputs.
    output = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    together = found.argument_size_in_bytes + found.temp_size_in_bytes + output
    # TPUs' own figure is the one that they refuse a program by; on other platforms it does not count temporaries.
    peak = found.peak_memory_in_bytes if tpu and found.peak_memory_in_bytes else together
    return Compiled(
        counted,
        peak,
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        output,
        flops=flops,
        seconds=seconds,
        text=text,
        warnings=complaints(said),
    )


def shortage(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes there) of the compiler's refusal; None where it is another. OutOfMemoryError where it is short of
    something else than a device's memory: the host's, or a kernel's."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for form in SHORTAGES:
        if found := form.search(message):
            return _bytes(found[1]), _bytes(found[2])
    raise OutOfMemoryError(
        "the train step cannot be compiled for lack of memory",
        where="the compiler",
        why=message.strip()[:600],
        do="lower config.train.batch_size or raise config.train.microbatches; of the host's memory, compile on a larger one",
    )


def _bytes(text: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", text).groups()
    return round(float(number) * 1024 ** UNITS[unit])


def complaints(said: list[str]) -> tuple[str, ...]:
    """Of what the compiler wrote, the arrays that it could only reshard by keeping them whole: a line for each."""
    found = {}
    for line in "".join(said).splitlines():
        if REMATERIALIZED in line:
            operation = re.search(r"HLO operation:? (%?[\w.\-]+ = \S+)", line)
            place = re.search(r'op_name="([^"]*)"', line)
            text = (operation[1] if operation else line.split(REMATERIALIZED)[1].strip(" .:"))[:200]
            found.setdefault(f"{text} in {place[1]}" if place else text)
    return tuple(found)


@contextlib.contextmanager
def listening(said: list[str]) -> Iterator[None]:
    """Ahead-of-time compilation in peace: the cache on disk is off (such programs cannot be read back), and what the compiler
    writes past Python to stderr is put into `said`."""
    sys.stderr.flush()
    kept = os.dup(2)
    with uncached(), tempfile.TemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
