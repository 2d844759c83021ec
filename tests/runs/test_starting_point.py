"""What a new run takes from another: names, sizes, statistics; what is refused, and with which leaves."""

import dataclasses

import jax
import numpy as np
import pytest

from pretrainx.adapt.lora import Lora, LoraConfig
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.core.images import Images
from pretrainx.core.labelled import Labelled
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.objectives.objective import Objective
from pretrainx.runs.recipe import InitConfig, Rename, parse
from pretrainx.runs.starting_point import alike, same_task, taken, words_of
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import MisfitError, newest_whole, read_meta
from pretrainx.training.state import TrainState

PLACE = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec())
AXES = {
    "backbone/out/kernel": ("embed", "mlp"),
    "backbone/out/lora_a": ("embed", "rank"),
    "backbone/out/lora_b": ("rank", "mlp"),
    "backbone/position/table": ("place", "embed"),
    "head/kernel": ("embed", "classes"),
    "token/table": ("vocab", "embed"),
}


TRAIN, VIT = {"steps": 200, "batch_size": 8}, {"name": "vit", "patch": 7}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saved(tmp_path, params, extras=None):
    """DIR/checkpoints of a run that ended with these leaves {path: array}."""
    extras = paths.from_leaves((extras or {}).items())
    state = TrainState(np.int32(7), paths.from_leaves(params.items()), {}, {}, extras, {}, {})
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    assert checkpoints.save(jax.tree.map(jax.numpy.asarray, state), {"data": {}})
    checkpoints.close()
    return tmp_path / "checkpoints"


def start(directory, wanted, init=InitConfig(), extras=None, **given):
    """What a run with parameters (and extras) of these shapes takes."""
    form = lambda shapes: paths.from_leaves(
        (path, jax.ShapeDtypeStruct(shape, np.float32, sharding=PLACE)) for path, shape in shapes.items()
    )
    return taken(directory, 7, read_meta(directory, 7), form(wanted), form(extras or {}), AXES, init, **given)


def test_the_same_names_and_what_is_new(tmp_path):
    kernel = numbers(4, 8)
    directory = saved(tmp_path, {"backbone/out/kernel": kernel, "projector/kernel": numbers(8, 2)})
    found = start(directory, {"backbone/out/kernel": (4, 8), "head/kernel": (8, 3)}, heads=("head",))
    assert set(found.params) == {"backbone/out/kernel"} and np.array_equal(found.params["backbone/out/kernel"], kernel)
    assert found.lines == ["head/kernel: not in the checkpoint, initialised"] and found.unused == 1 and found.step == 7
    assert found.said("runs/a") == "parameters from runs/a, step 7: 1 of 2 leaves; 1 others of it have no place here"


def test_a_head_starts_anew_though_the_other_run_has_one(tmp_path):
    """Of the same shape, too: its classes are others."""
    directory = saved(tmp_path, {"backbone/out/kernel": numbers(4, 8), "head/kernel": numbers(8, 3)})
    found = start(directory, {"backbone/out/kernel": (4, 8), "head/kernel": (8, 3)}, heads=("head",))
    assert "head/kernel" not in found.params and found.lines == ["head/kernel: starts anew"]


def test_a_wrong_base_is_refused_with_all_leaves_that_differ(tmp_path):
    directory = saved(tmp_path, {"backbone/out/kernel": numbers(4, 8), "token/table": numbers(9, 4)})
    with pytest.raises(MisfitError, match="of another model") as caught:
        start(directory, {"backbone/out/kernel": (6, 12), "token/table": (9, 6)})
    assert "backbone/out/kernel: [4, 8] there, [6, 12] here" in caught.value.why
    assert "token/table: [9, 4] there, [9, 6] here" in caught.value.why and caught.value.exit_code == 4
    found = start(directory, {"backbone/out/kernel": (6, 12), "token/table": (9, 4)}, InitConfig(skip=("backbone/.*",)))
    assert set(found.params) == {"token/table"}


@pytest.mark.parametrize("name", ["encoder", "image", "backbone"])
def test_the_network_of_another_paradigm_is_found_under_its_name(tmp_path, name):
    kernel, table = numbers(4, 8), numbers(1 + 16, 4)
    directory = saved(tmp_path, {f"{name}/out/kernel": kernel, f"{name}/position/table": table})
    found = start(directory, {"backbone/out/kernel": (4, 8), "backbone/position/table": (1 + 36, 4)})
    assert np.array_equal(found.params["backbone/out/kernel"], kernel)
    assert np.array_equal(found.params["backbone/position/table"][0], table[0])
    assert found.lines == ["backbone/position/table: a grid of 4 x 4 places made 6 x 6, bicubic"]


def test_names_are_changed_as_the_configuration_says(tmp_path):
    directory = saved(tmp_path, {"tower/a/out/kernel": numbers(4, 8)})
    rename = lambda pattern: InitConfig(rename=(Rename(pattern, r"backbone/\1"),))
    found = start(directory, {"backbone/out/kernel": (4, 8)}, rename("tower/a/(.*)"))
    assert set(found.params) == {"backbone/out/kernel"}
    with pytest.raises(ConfigError, match="nothing in the checkpoint has a name") as caught:
        start(directory, {"backbone/out/kernel": (4, 8)}, rename("tower"))
    assert caught.value.where == "config.init.rename" and "'tower'" in caught.value.why
    with pytest.raises(MisfitError, match="no parameter of this model") as caught:
        start(directory, {"backbone/out/kernel": (4, 8)})
    assert "tower" in caught.value.why


def test_patterns_that_match_nothing_or_too_much_are_refused(tmp_path):
    directory = saved(tmp_path, {"a/out/kernel": numbers(4, 8), "b/out/kernel": numbers(4, 8)})
    with pytest.raises(ConfigError, match="matches no parameter") as caught:
        start(directory, {"backbone/out/kernel": (4, 8)}, InitConfig(skip=("backbone",)))
    assert caught.value.where == "config.init.skip"
    with pytest.raises(ConfigError, match="given one name") as caught:
        start(directory, {"backbone/out/kernel": (4, 8)}, InitConfig(rename=(Rename("[ab]/(.*)", r"backbone/\1"),)))
    assert "params/a/out/kernel and params/b/out/kernel" in caught.value.why
    for broken in (dict(skip=("(",)), dict(rename=(Rename("(", "x"),))):
        with pytest.raises(ConfigError, match="not a regular expression"):
            InitConfig(**broken)


def test_a_step_of_the_other_run(tmp_path):
    directory = saved(tmp_path, {"backbone/out/kernel": numbers(4, 8)})
    assert newest_whole(directory, lambda step, meta: step, 7) == 7 == newest_whole(directory, lambda step, meta: step)
    with pytest.raises(CheckpointError, match="no such checkpoint") as caught:
        newest_whole(directory, lambda step, meta: step, 6)
    assert caught.value.where == "config.init.step=6"


@pytest.mark.parametrize("change", [dict(alpha=8.0), dict(targets=".*query"), dict(dora=True), dict(rank=2)])
def test_other_low_rank_updates_are_no_updates_of_this_run(change):
    config = LoraConfig(dropout=0.1)
    assert alike(config, LoraConfig()) and not alike(config, dataclasses.replace(config, **change))


def test_a_head_is_kept_for_the_same_task_alone():
    recipe = parse({"objective": {"name": "classification"}, "data": {"name": "images"}, "train": TRAIN, "model": VIT})
    images, config = Images(28, 1, ("a", "b"), (0.5,), (0.5,)), {"objective": {"name": "classification"}}
    meta = lambda classes, config=config: {"config": config, "data": {"images": {"classes": classes}}}
    assert same_task(meta(["a", "b"]), recipe, images)
    assert not same_task(meta(["a", "c"]), recipe, images) and not same_task(meta([]), recipe, images)
    assert not same_task(meta(["a", "b"], {"objective": {"name": "mae"}}), recipe, images)
    numbers = parse({"objective": {"name": "sequence_regression"}, "data": {"name": "labelled"}, "train": TRAIN})
    about = Labelled(Vocabulary(9), "number")
    told = lambda target: {"objective": {"name": "sequence_regression"}} | {"target": target}
    meta = lambda target: {"config": told(target), "data": {"labelled": {"target": target, "classes": []}}}
    assert same_task(meta("number"), numbers, about) and not same_task(meta("class"), numbers, about)


def test_running_statistics_come_along_and_queues_do_not(tmp_path):
    """From a run with extras of its own into one whose wrapper keeps the inner extras apart."""
    mean = numbers(8)
    extras = {
        "batch_stats/encoder/norm/mean": mean,
        "queue": numbers(3, 2),
        "teacher/encoder/out/kernel": numbers(4, 8),
    }
    directory = saved(tmp_path, {"encoder/out/kernel": numbers(4, 8)}, extras)
    wanted = {
        "inner/batch_stats/backbone/norm/mean": (8,),
        "inner/batch_stats/backbone/norm/var": (8,),
        "queue": (3, 2),
    }
    found = start(directory, {"backbone/out/kernel": (4, 8)}, extras=wanted)
    assert set(found.statistics) == {"inner/batch_stats/backbone/norm/mean"}
    assert np.array_equal(found.statistics["inner/batch_stats/backbone/norm/mean"], mean)
    assert found.lines == ["inner/batch_stats/backbone/norm/var: not in the checkpoint, starts anew"]


def test_words_are_found_by_their_spelling(tmp_path):
    """Two tokenizers of other texts: rows of a table go with their words, not with their numbers."""
    old, new = (Tokenizer.train([text], 300) for text in ("the cat sat " * 50, "a the mat sat " * 50))
    (tmp_path / "config.json").write_text('{"train": {"steps": 200, "batch_size": 1}}')
    (tmp_path / "data").mkdir()
    old.save(tmp_path / "data" / "tokenizer.json")
    words = words_of(tmp_path, {"data": {"tokenizer": old.digest}}, new)
    spelled = {index: spelling for spelling, index in old.spellings.items()}
    shared = old.spellings.keys() & new.spellings.keys()
    assert len(shared) > 256 and all(spelled[words[new.spellings[each]]] == each for each in shared)
    assert (words >= 0).sum() == len(shared) < len(words)
    assert any(old.spellings[each] != new.spellings[each] for each in shared), "else numbers would do"
    assert words_of(tmp_path, {"data": {"tokenizer": new.digest}}, new) is None
    table = numbers(old.vocabulary.size, 4)
    found = start(saved(tmp_path, {"token/table": table}), {"token/table": (new.vocabulary.size, 4)}, words=words)
    each = next(iter(shared))
    assert np.array_equal(found.params["token/table"][new.spellings[each]], table[old.spellings[each]])


def test_updates_of_low_rank_are_merged_for_a_run_without(tmp_path):
    """In a stack, along the layers; for a run that has them too they stay apart."""
    kernel, a, b = numbers(3, 4, 8), numbers(3, 4, 2, seed=1), numbers(3, 2, 8, seed=2)
    stored = {"backbone/out/kernel": kernel, "backbone/out/lora_a": a, "backbone/out/lora_b": b}
    directory, merge = saved(tmp_path, stored), Lora(Objective(), LoraConfig(rank=2, alpha=6.0)).merged
    found = start(directory, {"backbone/out/kernel": (3, 4, 8)}, merge=merge)
    assert np.allclose(found.params["backbone/out/kernel"], kernel + 3 * a @ b, atol=1e-6) and found.unused == 0
    assert found.lines == ["1 kernels of the other run have its updates merged into them"]
    apart = start(directory, {path: leaf.shape for path, leaf in stored.items()})
    assert all(np.array_equal(apart.params[path], leaf) for path, leaf in stored.items())


def test_averaged_parameters_are_taken_where_they_are_kept(tmp_path):
    trained, still, average = numbers(4, 8), numbers(3, 4, seed=1), numbers(4, 8, seed=2)
    params = paths.from_leaves({"backbone/out/kernel": trained}.items())
    frozen = paths.from_leaves({"token/table": still}.items())
    ema = paths.from_leaves({"backbone/out/kernel": average}.items())
    state = TrainState(np.int32(7), params, frozen, {}, {}, ema, {})
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    checkpoints.save(jax.tree.map(jax.numpy.asarray, state), {"data": {}})
    checkpoints.close()
    found = start(tmp_path / "checkpoints", {"backbone/out/kernel": (4, 8), "token/table": (3, 4)})
    assert np.array_equal(found.params["backbone/out/kernel"], average)
    assert np.array_equal(found.params["token/table"], still)
