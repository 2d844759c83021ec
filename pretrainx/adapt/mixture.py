"""A mixture of objectives: every task in every step, with a fixed share of its rows; parameters are united by path."""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, Outcome, Term, rows_of_task
from pretrainx.core.schedule import Times
from pretrainx.objectives.objective import Objective, UnknownOutput


def plain_tasks(objective: Objective) -> list[Objective]:
    """What wrappers and mixtures are around, one after the other."""
    objective = innermost(objective)
    if not isinstance(objective, Mixture):
        return [objective]
    return [plain for _, task, _ in objective.tasks for plain in plain_tasks(task)]


@dataclass(frozen=True)
class Mixture(Objective):
    """Tasks that share what has the same path: leaves, and so their gradients, which add up.

    Batches, keys, observations, representations, extras and collected arrays are nested by task, {task: ...}; terms and
    metrics are named "task/term". The loss is the sum of all terms, each normalised by its own task's weights.

    Attributes:
      tasks: (name, objective, share of the rows); the shares sum to 1.
      by_share: a task's terms count as much as it has rows: the loss is that of an average row, whichever its task.
        Otherwise each task counts fully.
    """

    tasks: tuple[tuple[str, Objective, float], ...]
    by_share: bool = False

    def __post_init__(self):
        names = [name for name, _, _ in self.tasks]
        if len(set(names)) < len(names) or not all(re.fullmatch(r"\w[\w-]*", name, re.ASCII) for name in names):
            raise ConfigError(
                "the tasks of a mixture cannot be told apart",
                where="config.objective",
                why=f"their names are {', '.join(map(repr, names)) or 'missing'}",
                do="give each a name of its own, of letters, digits, '_' and '-'",
            )
        shares = [share for _, _, share in self.tasks]
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(
                "the shares of a mixture's tasks are no parts of a whole",
                where="config.objective",
                why=f"{', '.join(f'{name} {share:g}' for name, _, share in self.tasks)}: their sum is {sum(shares):g}",
                do="choose shares above 0 that sum to 1",
            )

    @property
    def terms(self):
        counted = lambda term, share: Times(term.coefficient, share) if self.by_share else term.coefficient
        return tuple(
            Term(f"{name}/{term.name}", counted(term, share)) for name, task, share in self.tasks for term in task.terms
        )

    @property
    def heads(self):
        return tuple(dict.fromkeys(head for _, task, _ in self.tasks for head in task.heads))

    @property
    def constants(self):
        return tuple(f"{name}/{path}" for name, task, _ in self.tasks for path in task.constants)

    @property
    def reads(self):
        return tuple((name, share, task.reads) for name, task, share in self.tasks)

    def batch_spec(self, rows):
        return {name: task.batch_spec(rows_of_task(name, share, rows)) for name, task, share in self.tasks}

    def init(self, key, batch):
        found = {}
        for name, task, _ in self.tasks:
            for path, leaf in paths.leaves(task.init(key, batch[name])):
                owner, known = found.setdefault(path, (name, leaf))
                if known.value.shape != leaf.value.shape:
                    raise ConfigError(
                        "two tasks share a parameter that has two shapes",
                        where=path,
                        why=f"{list(known.value.shape)} for {owner!r}, {list(leaf.value.shape)} for {name!r}",
                        do="give the tasks the same model",
                    )
        return paths.from_leaves((path, leaf) for path, (_, leaf) in found.items())

    def start(self, key, params, batch):
        extras = {}
        for index, (name, task, _) in enumerate(self.tasks):
            params, extras[name] = task.start(jax.random.fold_in(key, index), params, batch[name])
        return params, extras

    def trains(self, path):
        return any(task.trains(path) for _, task, _ in self.tasks)

    def row_keys(self, key, batch):
        keys = lambda index, name, task: task.row_keys(jax.random.fold_in(key, index), batch[name])
        return {name: keys(index, name, task) for index, (name, task, _) in enumerate(self.tasks)}

    def observe_rows(self, keys, batch, step):
        each = {name: task.observe_rows(keys[name], batch[name], step) for name, task, _ in self.tasks}
        weights = {f"{name}/{term}": array for name, seen in each.items() for term, array in seen.weights.items()}
        return Observation(each, {}, weights, {name: seen.valid for name, seen in each.items()})

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda name, task: task.encode(
            params, extras[name], observation.inputs[name], keys[name], step, train=train
        )
        return joined({name: run(name, task) for name, task, _ in self.tasks})

    def couple(self, params, extras, representations, observation, step):
        run = lambda name, task: task.couple(
            params, extras[name], representations[name], observation.inputs[name], step
        )
        return joined({name: run(name, task) for name, task, _ in self.tasks if representations[name]})

    def advance(self, params, extras, collected, key, step):
        for index, (name, task, _) in enumerate(self.tasks):
            key_of_task = jax.random.fold_in(key, index)
            params, new = task.advance(params, extras[name], collected[name], key_of_task, step)
            extras = extras | {name: new}
        return params, extras

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """Each task's by "task/name"; a name alone is answered by the first task that knows it.

        inputs: those of the tasks that are asked, or {task: inputs}.
        """
        found = {}
        for name in names:
            first, _, rest = name.partition("/")
            asked = [each for each in self.tasks if each[0] == first] if rest else self.tasks
            wanted, refusals = (rest or name,), []
            for of_task, task, _ in asked:
                given = inputs[of_task] if isinstance(inputs.get(of_task), dict) else inputs
                try:
                    answer = task.outputs(params, extras[of_task], given, wanted, key, train=train)
                except UnknownOutput as error:
                    refusals.append(f"{of_task}: {error}")
                    continue
                found[name] = answer[wanted[0]]
                break
            else:
                known = ", ".join(each[0] for each in self.tasks)
                raise UnknownOutput(f"no output {name!r}: " + ("; ".join(refusals) or f"the tasks are {known}"))
        return found

    @property
    def decodes(self):
        return any(task.decodes for _, task, _ in self.tasks)

    def writer(self) -> tuple[str, Objective]:
        """(name, task) of the first task that writes token by token: the one that `cache` and `decode` are of."""
        for name, task, _ in self.tasks:
            if task.decodes:
                return name, task
        raise TypeError("no task of the mixture decodes token by token")

    def cache(self, params, extras, rows, length, source=None):
        name, task = self.writer()
        return task.cache(params, extras[name], rows, length, source)

    def decode(self, params, extras, tokens, cache):
        name, task = self.writer()
        return task.decode(params, extras[name], tokens, cache)

    def flops_per_row(self):
        each = [task.flops_per_row() for _, task, _ in self.tasks]
        return None if None in each else sum(share * f for f, (_, _, share) in zip(each, self.tasks, strict=True))

    def flops_by_convention(self):
        """By those that all tasks have."""
        each = [(task.flops_by_convention(), share) for _, task, share in self.tasks]
        common = [name for name in each[0][0] if all(name in found for found, _ in each)]
        return {name: sum(share * found[name] for found, share in each) for name in common}

    def parameter_counts(self):
        """Of the one model of tasks that have the same; None for others, which share some of their parameters."""
        first, *others = (task.parameter_counts() for _, task, _ in self.tasks)
        return first if all(each == first for each in others) else None


def joined(outcomes: dict[str, Outcome]) -> Outcome:
    """The outcomes of tasks as one: trees nested by task, terms and metrics named "task/name"."""
    nest = lambda field: {name: getattr(each, field) for name, each in outcomes.items()}
    flat = lambda field: {
        f"{name}/{key}": value for name, each in outcomes.items() for key, value in getattr(each, field).items()
    }
    nested, flattened = ("representations", "extras", "collected"), ("totals", "per_row", "metrics")
    return Outcome(**{field: nest(field) for field in nested}, **{field: flat(field) for field in flattened})
