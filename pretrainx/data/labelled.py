"""Labelled text made ready for models: tokenised once, split by group, kept in a directory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.labelled import TARGETS
from pretrainx.data import labelled_sources, stored_tokenizer
from pretrainx.data.directory import once, refuse_another, sync_directory, write_description
from pretrainx.data.labelled_columns import write_columns
from pretrainx.data.labelled_sources import Example, Fields
from pretrainx.data.prepared import TOKENIZER
from pretrainx.data.prepared_labelled import FORMAT, KIND, PreparedLabelled, open_labelled
from pretrainx.data.splits import fraction
from pretrainx.data.tokenizer import SMALLEST, Tokenizer


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """Texts, or pairs of texts, with their labels.

    Attributes:
      source: "jsonl" or "csv" (see `labelled_sources`), or "stdlib": docstrings of the installed Python, told apart by package.
      paths: files of training and held-out examples. test_paths: of a ready-made test split; () is none.
      held_out: the fraction of groups kept from training.
      text, second, label: names of the fields; second "" where examples are single texts. Of target "span" the text is the
        question and the second text holds the answer.
      target: what a label is: "class", "number", "tags" (of a list of words, one each), "span" or "text".
      group: the field whose equal values stay in one split, such as a film that several reviews are of; "" is the texts.
      tokenizer: "bpe" (trained on the training split), "bytes", or the path of a tokenizer.json, such as an imported run's.
      vocab_size: ids of a trained tokenizer, 256 bytes and 2 specials included.
      length: W, tokens of a row, marks included; longer texts are cut when they are read.
      target_length: tokens of a target that is a text, its end included.
      labels: so many training examples of each class (in all, where there are no classes) are used; 0 is all of them.
        labels_seed: which; more of one seed contain the fewer.
      specials: names of special tokens for a tokenizer that is made here, beside "pad" and "eos"; one from a file must have
        them.
      cache: directory of prepared data shared between runs; "" means the run's own.
    """

    source: str = dataclasses.field(default="jsonl", metadata={"choices": labelled_sources.KINDS})
    paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    held_out: float = dataclasses.field(default=0.1, metadata={"min": 0.0, "max": 0.9})
    text: str = "text"
    second: str = ""
    label: str = "label"
    target: str = dataclasses.field(default="class", metadata={"choices": TARGETS})
    group: str = ""
    tokenizer: str = "bpe"
    vocab_size: int = dataclasses.field(default=1024, metadata={"min": SMALLEST})
    length: int = dataclasses.field(default=128, metadata={"min": 4})
    target_length: int = dataclasses.field(default=32, metadata={"min": 2})
    labels: int = dataclasses.field(default=0, metadata={"min": 0})
    labels_seed: int = dataclasses.field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    specials: tuple[str, ...] = ()
    cache: str = ""
    sentinels = 0  # no field: nothing is hidden, and what makes a tokenizer asks for their number

    def __post_init__(self):
        if self.target == "span" and not self.second:
            raise ConfigError(
                "an answer is a part of a second text",
                where="config.data.second",
                why="config.data.target is 'span', and no field holds what is asked about",
                do="name it, such as --config.data.second=context, and the question's as config.data.text",
            )
        if self.target == "tags" and self.second:
            raise ConfigError(
                "the words of one text have tags",
                where="config.data.second",
                why=f"config.data.target is 'tags', and {self.second!r} names a second text",
                do="leave it out",
            )

    @property
    def fields(self) -> Fields:
        return Fields(self.text, self.second, self.label, self.group, self.target)

    def preparing(self) -> dict[str, Any]:
        """The fields that decide what is prepared: one directory serves any length, and any number of labels."""
        unused = {"length", "target_length", "labels", "labels_seed", "cache"}
        unused |= {"vocab_size"} if self.tokenizer != "bpe" else set()
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in unused}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def prepare_labelled(
    config: LabelledConfig, directory: str | Path, log: Callable[[str], None] = print
) -> PreparedLabelled:
    """The prepared examples of a configuration: opened from `directory`, or made there, whole or not at all (see `once`).

    Raises DataError for an unusable example (naming file and line), a split without examples, a class that training does not
    have, a damaged file, or a directory made with another configuration; ConfigError for one that cannot be meant.
    """
    directory = Path(directory)
    return once(directory, lambda work: _make(config, work, log), lambda: _reuse(config, directory), log)


def _reuse(config: LabelledConfig, directory: Path) -> PreparedLabelled:
    found = open_labelled(directory, config.labels, config.labels_seed)
    refuse_another(directory, found.meta["preparing"], config.preparing())
    stored_tokenizer.refuse_changed(config, directory, found.tokenizer)
    return found


def _make(config: LabelledConfig, work: Path, log: Callable[[str], None]) -> None:
    splits = split_examples(config)
    tokenizer = stored_tokenizer.chosen(config, lambda: texts_of(splits["train"], config.target))
    log(f"data: tokenizer with {tokenizer.vocabulary.size} ids")
    tokenizer.save(work / TOKENIZER)
    classes = class_names(config, splits)
    facts, seen = {}, {example.group for example in splits["train"]} if not config.group else set()
    for split, examples in splits.items():
        facts[split] = write_columns(work, split, examples, config.target, classes, tokenizer, work / TOKENIZER)
        line = f"data: {split}, {len(examples):,} examples, {facts[split]['tokens']:,} tokens"
        if split == "test" and seen:
            shared = sum(example.group in seen for example in examples)
            line += f"; {shared:,} of these texts are in the training split too" if shared else ""
        log(line)
    labels = np.array([example.label for example in splits["train"]], np.float64) if config.target == "number" else None
    about = {"target": config.target, "classes": list(classes), "pairs": bool(config.second)}
    about |= {"mean": 0.0, "std": 1.0} if labels is None else {"mean": labels.mean(), "std": labels.std() or 1.0}
    dtype = "uint16" if tokenizer.vocabulary.size <= 1 << 16 else "uint32"
    meta = {"format": FORMAT, "kind": KIND, "preparing": config.preparing(), "splits": facts, "labelled": about}
    sync_directory(work)
    described = {"dtype": dtype, "tokenizer": tokenizer.digest, "vocab_size": tokenizer.vocabulary.size}
    write_description(work, {**meta, **described})


def split_examples(config: LabelledConfig) -> dict[str, list[Example]]:
    """{split: its examples}. A group's name alone decides its split, so that adding examples moves no other across."""
    if not config.paths and config.source != "stdlib":
        raise ConfigError(
            "labelled data need files",
            where="config.data.paths",
            why="no paths are given",
            do="name files, directories or glob patterns, such as ('reviews/train.jsonl',)",
        )
    splits: dict[str, list[Example]] = {"train": [], "held_out": []}
    for example in labelled_sources.examples(config.source, config.paths, config.fields):
        splits["held_out" if fraction(example.group) < config.held_out else "train"].append(example)
    if config.test_paths:
        splits["test"] = list(labelled_sources.examples(config.source, config.test_paths, config.fields))
    for split, found in splits.items():
        if not found:
            raise DataError(
                f"the split {split!r} has no example",
                where="config.data.test_paths" if split == "test" else "config.data.held_out",
                why=f"{sum(map(len, splits.values())):,} examples, of whose groups {config.held_out:g} are held out",
                do="add examples, name another group, or choose another fraction",
            )
    return splits


def class_names(config: LabelledConfig, splits: dict[str, list[Example]]) -> tuple[str, ...]:
    """The names of classes or tags of the training and held-out examples, whole numbers in their order.

    Raises DataError for one that no training example has: it could not be learned.
    """
    if config.target not in ("class", "tags"):
        return ()
    of = lambda example: example.label if config.target == "tags" else (example.label,)
    known = Counter(name for example in splits["train"] for name in of(example))
    for split in ("held_out", "test"):
        for example in splits.get(split, ()):
            if unknown := [name for name in of(example) if name not in known]:
                raise DataError(
                    f"no training example is of the class {unknown[0]!r}",
                    where=example.where,
                    why=f"it is of the split {split!r}; training has {', '.join(sorted(known)[:20])}",
                    do="add examples of it, correct the label, or hold out fewer (config.data.held_out, config.data.group)",
                )
    numbers = all(name.lstrip("-").isdigit() for name in known)
    return tuple(sorted(known, key=int if numbers else None))


def texts_of(examples: Iterable[Example], target: str) -> Iterator[str]:
    """Everything of examples that becomes tokens."""
    for example in examples:
        yield " ".join(example.text) if isinstance(example.text, tuple) else example.text
        if example.second:
            yield example.second
        if target == "text":
            yield example.label


def train_tokenizer(config: LabelledConfig) -> tuple[Tokenizer, int, int]:
    """(tokenizer, bytes of held-out text, tokens that it makes of them): the one that `prepare_labelled` would use."""
    splits = split_examples(config)
    tokenizer = stored_tokenizer.chosen(config, lambda: texts_of(splits["train"], config.target))
    texts = list(texts_of(splits["held_out"], config.target))
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    return tokenizer, sum(len(text.encode()) for text in texts), tokens
