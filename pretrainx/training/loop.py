"""The loop: batch, step, log, evaluate, save, look for a signal; always in this order."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from pretrainx.core.errors import CollapseError, NonFiniteError
from pretrainx.parallel import distributed
from pretrainx.training import breakdown, progress
from pretrainx.training.alarm import Alarm
from pretrainx.training.breakdown import Breakdown
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.profile import Profile, ProfileConfig
from pretrainx.training.signals import Signals
from pretrainx.training.state import TrainState
from pretrainx.training.step import TrainStep
from pretrainx.training.watchdog import Watchdog
from pretrainx.training.writers import Journal


@dataclass(frozen=True)
class LoopConfig:
    """Attributes:
    steps: length of the run.
    batch_size: rows of the GLOBAL batch; per-device rows and microbatches are derived.
    microbatches: parts that the batch is computed in, one after the other.
    log_every, eval_every: steps between logged lines, and between evaluations (0: only at the end).
    grad_clip: global gradient norm above which gradients are scaled down; 0 is off.
    """

    steps: int = field(metadata={"min": 1})
    batch_size: int = field(metadata={"min": 1})
    microbatches: int = field(default=1, metadata={"min": 1})
    log_every: int = field(default=10, metadata={"min": 1})
    eval_every: int = field(default=0, metadata={"min": 0})
    grad_clip: float = field(default=1.0, metadata={"min": 0})

    def logs(self, step: int) -> bool:
        """Whether the metrics of this step are logged, counted from 1."""
        return step == self.steps or step % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Whether the state after so many steps is evaluated."""
        return step == self.steps or bool(self.eval_every and step % self.eval_every == 0)


@dataclass
class Loop:
    """Everything a run needs from step to step.

    Attributes:
      next_batch: the placed batch of the next step.
      record_hash: step -> hex name of the rows of its batch, in each log line.
      evaluate: (state, stop) -> {metric name: value}, {} when stopped on the way.
      facts: what each checkpoint's meta record holds beside the state.
      units_per_step, unit: what the rate counts, such as tokens per step and "tok".
      flops_per_step, peak: for MFU; None where unknown.
      watchdog: told of each phase that begins. clock: told of each part of the work that ends.
      alarm: looks at each logged record for embeddings that collapse.
      trace: which steps are traced.
      owed: whether a signal cut short the evaluation of the state that the run goes on from; it is made first.
    """

    config: LoopConfig
    step: TrainStep
    next_batch: Callable[[], dict]
    record_hash: Callable[[int], str]
    evaluate: Callable[[TrainState, Callable[[], bool]], dict[str, float]]
    checkpoints: Checkpoints
    save_every: int
    journal: Journal
    workdir: Path
    facts: Callable[[], dict]
    units_per_step: float
    unit: str
    flops_per_step: float | None
    peak: float | None
    patience: int
    wall: Callable[[], float]
    watchdog: Watchdog
    say: Callable[[str], None] = print
    alarm: Alarm = field(default_factory=Alarm)
    clock: Breakdown = field(default_factory=Breakdown)
    trace: ProfileConfig = ProfileConfig()
    owed: bool = False
    done: int = 0  # steps of the run
    timed: int = 0  # steps since the last logged one, but for the first of the process, which compiles
    skipped: int = 0  # of the guard, as last told
    ahead: collections.deque = field(default_factory=collections.deque)  # losses of the steps not waited for yet

    def run(self, state: TrainState, signals: Signals) -> TrainState:
        """Trains up to the last step.

        Raises Preempted or Interrupted after saving, NonFiniteError after `patience` skips, CollapseError where config.alarm
        is to end the run, CheckpointError where the state that the run ends with could not be saved.
        """
        self.done = int(state.step)
        profile = Profile(self.trace, self.workdir, self.catch_up, self.journal.event, self.say)
        profile.tell_if_late(self.done)
        self.clock.book("start")
        try:
            return self.train(state, signals, profile)
        finally:
            if profile.close(self.done):
                self.clock.book("profile")
            self.journal.event("seconds", step=self.done, **breakdown.rounded(self.clock.lap()))

    def train(self, state: TrainState, signals: Signals, profile: Profile) -> TrainState:
        """The steps of `run`, and what is logged, evaluated and saved between them; books each part's time. Raises as `run`."""
        clock, compiled = self.clock, False
        if self.owed:
            self.evaluated(state, signals)
        self.skipped, programs = int(state.guard["skipped"]), 1
        while self.done < self.config.steps and not signals.requested():
            self.watchdog.beat("data")
            batch = self.next_batch()
            clock.book("data" if compiled else "start")
            if profile.before(self.done):
                clock.book("profile")
            self.watchdog.beat("step" if compiled else "compile")
            clock.before_call()
            with jax.profiler.StepTraceAnnotation("train", step_num=self.done):
                state, metrics = distributed.settled(self.step(state, batch))
            self.done += 1
            again = self.step.traces > programs
            if not compiled:  # the first step compiles
                jax.block_until_ready(metrics["loss"])
                clock.book("compile")
                self.journal.event("first_step", step=self.done, seconds=round(self.wall(), 3))
                compiled = True
            else:
                clock.book("compile") if again else clock.book_call()
                self.timed += 1
                self.ahead.append(metrics["loss"])
            if again:
                text = "the train step was compiled again: the batch or the state changed its form"
                self.journal.event("warning", step=self.done, text=text)
                programs = self.step.traces
            if profile.after(self.done):
                clock.book("profile")
            saves = self.done == self.config.steps or self.done % self.save_every == 0
            if self.config.logs(self.done) or saves or self.config.evaluates(self.done):
                self.catch_up()
            if self.config.logs(self.done):
                self.log(metrics)
            self.watchdog.beat("save")
            self.checkpoints.poll()
            clock.book("log")
            if self.config.evaluates(self.done):
                self.evaluated(state, signals)
            if saves:
                self.checkpoints.save(state, self.facts())
                clock.book("save")
        self.catch_up()
        self.watchdog.beat("save")
        if signals.requested():
            self.checkpoints.wait()
            self.checkpoints.save(state, self.facts())
            self.checkpoints.demand(self.done)
            clock.book("save")
            self.journal.event("signal", name=signals.received, step=self.done)
            raise signals.error(self.done, self.workdir)
        self.checkpoints.demand(self.done)
        clock.book("save")
        return state

    def catch_up(self) -> None:
        """Waits for the steps that were dispatched, one by one: none has longer than the watchdog's limit for one step, and
        what comes next (a log line, an evaluation, a save) does not wait for steps in its own time."""
        while self.ahead:
            self.watchdog.beat("step")
            jax.block_until_ready(self.ahead.popleft())
            self.clock.book("device")

    def log(self, metrics: dict) -> None:
        """One line in metrics.jsonl and one on the screen."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items() if name != "per_row"}
        self.clock.book("log")
        done, steps, lap = self.done, self.timed, self.clock.lap()
        seconds, share = breakdown.of_steps(lap) / max(steps, 1), breakdown.data_share(lap)
        self.timed = 0
        loss, norm, rate = values.pop("loss"), values.pop("grad_norm"), values.pop("lr")
        skipped, streak = int(values.pop("skipped")), int(values.pop("streak"))
        record = {"step": done, "train/loss": loss, "train/grad_norm": norm, "train/lr": rate}
        terms = {name: value for name, value in values.items() if name.startswith("term/")}
        record |= {f"train/{name}": value for name, value in values.items() if len(terms) > 1 or name not in terms}
        record |= {"train/skipped": skipped, "batch_hash": self.record_hash(done - 1), "wall": round(self.wall(), 3)}
        record |= {"time": round(time.time(), 3)} | breakdown.rounded(lap, "perf/seconds/")
        units, mfu = self.units_per_step / seconds if steps else 0.0, None
        if steps:
            name = {"tok": "tokens"}.get(self.unit, "examples")
            record |= {f"perf/{name}_per_s": units, "perf/data_wait": share}
            if self.peak and self.flops_per_step:
                mfu = self.flops_per_step / seconds / self.peak
                record["perf/mfu"] = mfu
        self.journal.metrics(record)
        left = (self.config.steps - done) * seconds if steps else None
        self.say(progress.line(done, self.config.steps, loss, norm, rate, units, f"{self.unit}/s", mfu, share, left))
        if skipped > self.skipped:
            new, self.skipped = skipped - self.skipped, skipped
            self.journal.event("skipped", step=done, new=new, in_a_row=streak, in_all=skipped)
            self.say(f"skipped: {new} steps since the last line were not finite or spiked, {streak} of them in a row")
        if streak >= self.patience:
            raise NonFiniteError(
                f"{streak} steps in a row could not be taken",
                where=f"{self.workdir}, steps {done - streak} to {done - 1}",
                why=f"loss {loss:g}, gradient norm {norm:g}",
                do="look at the data of these steps, lower config.schedule.peak, or raise config.guard.patience",
            )
        for collapse in self.alarm(record):
            self.collapsed(done, **collapse)

    def collapsed(self, done: int, metric: str, value: float, threshold: float) -> None:
        """Tells of embeddings that are all nearly the same; ends the run where it should."""
        self.journal.event("collapse", step=done, metric=metric, value=value, threshold=threshold)
        low = f"{metric} {value:.4g} is below {threshold:g}"
        self.say(f"collapse: {low}: embeddings of different examples are nearly the same")
        if self.alarm.config.stop:
            raise CollapseError(
                "the embeddings have collapsed",
                where=f"{self.workdir}, step {done}",
                why=f"{low}, as in all that was logged since step {self.alarm.low[metric]}",
                do="lower config.schedule.peak, look at what keeps the objective from it (negatives, stop-gradient, "
                "centring), or --config.alarm.stop=False",
            )

    def evaluated(self, state: TrainState, signals: Signals) -> None:
        with self.watchdog.during("eval"):
            values = self.evaluate(state, signals.requested)
        self.clock.book("eval")
        if values:
            done = int(state.step)
            self.journal.metrics({"step": done} | {f"eval/{name}": value for name, value in values.items()})
            shown = " | ".join(f"{name} {value:.4f}" for name, value in values.items() if "/term/" not in name)
            self.say(f"eval {done}/{self.config.steps} | {shown}")
