"""From the members of an archive to neutral files: text, JSON lines, or the file as it is. No code of theirs is run."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pretrainx.data import image_sources

# In every MANIFEST.json: what an older version made is made anew.
VERSION = 1
Counts = dict[str, int]
# The classes of Fashion-MNIST in the order of its labels.
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def copy_files(root: Path, names: list[str], into: Path) -> Counts:
    """Each member as it is, under its own last name."""
    size = 0
    for name in names:
        size += shutil.copyfile(root / name, into / Path(name).name).stat().st_size
    return {"files": len(names), "bytes": size}


def brown(root: Path, names: list[str], into: Path) -> Counts:
    """Words and tags of the Brown corpus to {"text", "genre", "document"}: one sentence a line, blanks between words."""
    (listing,) = (name for name in names if name.endswith("cats.txt"))
    lines = (root / listing).read_text("latin-1").splitlines()
    genres = dict(line.split(maxsplit=1) for line in lines if line.strip())
    counts = {"documents": 0, "sentences": 0, "tokens": 0}

    def documents():
        for name in names:
            if name == listing:
                continue
            sentences = []
            for line in (root / name).read_text("latin-1").splitlines():
                # The tag follows the last slash: words such as 1/2 have others.
                if words := [word.rpartition("/")[0] for word in line.split()]:
                    sentences.append(" ".join(words))
                    counts["tokens"] += len(words)
            counts["documents"] += 1
            counts["sentences"] += len(sentences)
            document = Path(name).name
            yield {"text": "\n".join(sentences) + "\n", "genre": genres[document], "document": document}

    _write(into / "brown.jsonl", documents())
    return counts


def moses(root: Path, names: list[str], into: Path) -> Counts:
    """Columns of SMILES strings to {"text"}, a file for each of the ready-made splits."""
    counts = {}
    for name in names:
        split = Path(name).name.removesuffix(".csv.gz")
        with gzip.open(root / name, "rt", encoding="ascii") as stream:
            rows = csv.DictReader(stream)
            counts[split] = _write(into / f"{split}.jsonl", ({"text": row["SMILES"]} for row in rows))
    return counts


def rotten_tomatoes(root: Path, names: list[str], into: Path) -> Counts:
    """Reviews to {"text", "label", "movie"}, train and test by movie: several reviews of one film share its words."""
    (name,) = names
    rows = list(csv.DictReader(io.StringIO(bz2.decompress((root / name).read_bytes()).decode("utf-8"))))
    counts = {label: sum(row["category"] == label for row in rows) for label in ("fresh", "rotten", "plot")}
    record = lambda row: {"text": row["text"], "label": row["category"], "movie": row["movie_name"]}
    reviews = [record(row) for row in rows if row["category"] in ("fresh", "rotten")]
    test = [_share(f"rotten-tomatoes/0/{review['movie']}") < 0.2 for review in reviews]
    _write(into / "train.jsonl", (review for review, held_out in zip(reviews, test, strict=True) if not held_out))
    _write(into / "test.jsonl", (review for review, held_out in zip(reviews, test, strict=True) if held_out))
    _write(into / "plots.jsonl", (record(row) for row in rows if row["category"] == "plot"))
    return counts


def fashion_mnist(root: Path, names: list[str], into: Path) -> Counts:
    """The four IDX files as they are, and classes.txt; counts by the labels, and of the rarest class."""
    copy_files(root, names, into)
    counts = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = image_sources.idx((str(into / f"{prefix}-images-idx3-ubyte.gz"),))
        each = Counter(picture.label for picture in source.read(range(len(source.names))))
        if set(each) != set(range(len(GARMENTS))):
            raise ValueError(f"labels of {split} are {sorted(each, key=str)}")
        counts |= {split: len(source.names), f"{split}_of_each": min(each.values())}
    (into / "classes.txt").write_text("\n".join(GARMENTS) + "\n", encoding="utf-8")
    return counts


def wordnet_glosses(root: Path, names: list[str], into: Path) -> Counts:
    """Synsets to {"text": gloss, "label": number of the lexicographer's file, "synset"}; licence lines are left out."""

    def glosses():
        for name in names:
            part = name.rpartition(".")[2]
            for line in (root / name).read_text("ascii").splitlines():
                if not line.startswith("  "):
                    facts, _, gloss = line.partition("|")
                    offset, label = facts.split()[:2]
                    yield {"text": gloss.strip(), "label": int(label), "synset": f"{part}:{offset}"}

    return {"glosses": _write(into / "glosses.jsonl", glosses())}


CONVERTERS: dict[str, Callable[[Path, list[str], Path], Counts]] = {
    function.__name__: function
    for function in (copy_files, brown, moses, rotten_tomatoes, fashion_mnist, wordnet_glosses)
}


def _write(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """One JSON object a line; how many."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _share(key: str) -> float:
    """A number in [0, 1) of the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
