"""A mixture of objectives: every task in every step, parameters united by path."""

from dataclasses import dataclass

from jax.random import fold_in

from pretrainx.core import paths
from pretrainx.core.records import Observation, Outcome, Term
from pretrainx.objectives.objective import Objective


@dataclass(frozen=True)
class Mixture(Objective):
    tasks: tuple[tuple[str, Objective, float], ...]  # (name, objective, share of the rows)

    @property
    def terms(self):
        return tuple(Term(f"{name}/{t.name}", t.coefficient) for name, task, _ in self.tasks for t in task.terms)

    def batch_spec(self, rows):
        return {name: task.batch_spec(int(rows * share)) for name, task, share in self.tasks}

    def init(self, key, batch):
        trees = [dict(paths.leaves(task.init(key, batch[name]))) for name, task, _ in self.tasks]
        for path in set(trees[0]).intersection(*trees[1:]):
            if len({tree[path].value.shape for tree in trees}) > 1:
                raise ValueError(f"the tasks' parameters {path} differ in shape")
        return paths.from_leaves({path: leaf for tree in reversed(trees) for path, leaf in tree.items()}.items())

    def start(self, key, params, batch):
        extras = {}
        for i, (name, task, _) in enumerate(self.tasks):
            params, extras[name] = task.start(fold_in(key, i), params, batch[name])
        return params, extras

    def trains(self, path):
        return any(task.trains(path) for _, task, _ in self.tasks)

    def row_keys(self, key, batch):
        return {n: task.row_keys(fold_in(key, i), batch[n]) for i, (n, task, _) in enumerate(self.tasks)}

    def observe_rows(self, keys, batch, step):
        each = {name: task.observe_rows(keys[name], batch[name], step) for name, task, _ in self.tasks}
        weights = {f"{name}/{term}": w for name, o in each.items() for term, w in o.weights.items()}
        return Observation(each, {}, weights, {name: o.valid for name, o in each.items()})

    def encode(self, params, extras, seen, keys, step, *, train):
        run = lambda n, task: task.encode(params, extras[n], seen.inputs[n], keys[n], step, train=train)
        return joined({name: run(name, task) for name, task, _ in self.tasks})

    def couple(self, params, extras, reps, seen, step):
        run = lambda n, task: task.couple(params, extras[n], reps[n], seen.inputs[n], step)
        return joined({name: run(name, task) for name, task, _ in self.tasks if reps[name]})

    def advance(self, params, extras, collected, key, step):
        for i, (n, task, _) in enumerate(self.tasks):
            params, new = task.advance(params, extras[n], collected[n], fold_in(key, i), step)
            extras = extras | {n: new}
        return params, extras


def joined(outcomes):
    nest = lambda field: {name: getattr(o, field) for name, o in outcomes.items()}
    flat = lambda field: {f"{n}/{key}": value for n, o in outcomes.items() for key, value in getattr(o, field).items()}
    nested, flattened = ("representations", "extras", "collected"), ("totals", "per_row", "metrics")
    return Outcome(**{field: nest(field) for field in nested}, **{field: flat(field) for field in flattened})
