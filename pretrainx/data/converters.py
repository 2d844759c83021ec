"""From the members of an archive to neutral files: text, JSON lines, or the file as it is. No code of theirs is run."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pretrainx.data import image_sources, svg_metadata

# In every MANIFEST.json: what an older version made is made anew.
VERSION = 1
Counts = dict[str, int]
# The classes of Fashion-MNIST in the order of its labels.
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SKIN_TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
MOST_OF_A_TITLE = 3
# Where a drawing without keywords was filed, and what a faulty script wrote for one: HASH(0x...).
NO_KEYWORD = re.compile(r"unsorted|hash|0x[0-9a-f]+", re.IGNORECASE)


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

    write_lines(into / "brown.jsonl", documents())
    return counts


def moses(root: Path, names: list[str], into: Path) -> Counts:
    """Columns of SMILES strings to {"text"}, a file for each of the ready-made splits."""
    counts = {}
    for name in names:
        split = Path(name).name.removesuffix(".csv.gz")
        with gzip.open(root / name, "rt", encoding="ascii") as stream:
            rows = csv.DictReader(stream)
            counts[split] = write_lines(into / f"{split}.jsonl", ({"text": row["SMILES"]} for row in rows))
    return counts


def rotten_tomatoes(root: Path, names: list[str], into: Path) -> Counts:
    """Reviews to {"text", "label", "movie"}, train and test by movie: several reviews of one film share its words."""
    (name,) = names
    rows = list(csv.DictReader(io.StringIO(bz2.decompress((root / name).read_bytes()).decode("utf-8"))))
    counts = {label: sum(row["category"] == label for row in rows) for label in ("fresh", "rotten", "plot")}
    record = lambda row: {"text": row["text"], "label": row["category"], "movie": row["movie_name"]}
    reviews = [record(row) for row in rows if row["category"] in ("fresh", "rotten")]
    test = [_share(f"rotten-tomatoes/0/{review['movie']}") < 0.2 for review in reviews]
    write_lines(into / "train.jsonl", (review for review, held_out in zip(reviews, test, strict=True) if not held_out))
    write_lines(into / "test.jsonl", (review for review, held_out in zip(reviews, test, strict=True) if held_out))
    write_lines(into / "plots.jsonl", (record(row) for row in rows if row["category"] == "plot"))
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

    return {"glosses": write_lines(into / "glosses.jsonl", glosses())}


def emoji(root: Path, names: list[str], into: Path) -> Counts:
    """Emoji to pictures and lines {"image", "captions", "label": category, "group": the base emoji's code}.

    The captions of a base emoji: its name with all keywords, its name, and each keyword; of one with skin tones the same
    with these behind them.
    """
    (listing,) = (root / name for name in names if name.endswith("package/emoji.json"))
    (keywords,) = (root / name for name in names if name.endswith("emoji-en-US.json"))
    pictures = {Path(name).name: root / name for name in names if name.endswith(".png")}
    listed, known = (json.loads(path.read_text("utf-8")) for path in (listing, keywords))
    (into / "images").mkdir()
    counts = {"base": 0, "variants": 0, "with_keywords": 0}

    def pairs():
        for each in listed:
            characters = "".join(chr(int(code, 16)) for code in each["unified"].split("-"))
            words = known.get(characters) or known.get(characters.replace("\ufe0f", "")) or []
            captions = _named(each["name"], words)
            counts["base"] += 1
            counts["with_keywords"] += bool(words)
            facts = {"label": each["category"], "group": each["unified"]}
            variants = each.get("skin_variations", {})
            counts["variants"] += len(variants)
            for tones, image in (("", each["image"]), *((tones, found["image"]) for tones, found in variants.items())):
                shutil.copyfile(pictures[image], into / "images" / image)
                # Of two people with one tone it is said once.
                said = [f", {SKIN_TONES[tone]} skin tone" for tone in dict.fromkeys(tones.split("-")) if tone]
                yield {
                    "image": f"images/{image}",
                    "captions": [caption + "".join(said) for caption in captions],
                } | facts

    write_lines(into / "pairs.jsonl", pairs())
    counts["names"] = len({each["name"] for each in listed})
    return counts | {"categories": len({each["category"] for each in listed})}


def openclipart(root: Path, names: list[str], into: Path) -> Counts:
    """Drawings to pictures as they are and lines {"image", "captions", "label": top folder, "group": title}.

    Title, keywords and description come from the SVG of the same path. Those whose title more than MOST_OF_A_TITLE drawings
    have are left out: such titles are of a whole series and say nothing of one.
    """
    vectors = {name.partition("/svg/")[2].removesuffix(".svg"): root / name for name in names if name.endswith(".svg")}
    pictures = {name.partition("/png/")[2].removesuffix(".png"): root / name for name in names if name.endswith(".png")}
    works = {name: svg_metadata.read(vectors[name].read_bytes()) for name in sorted(pictures) if name in vectors}
    titles = {name: _plain(work.title) for name, work in works.items() if work and _plain(work.title)}
    often = Counter(title.lower() for title in titles.values())

    def pairs():
        for name, title in titles.items():
            if often[title.lower()] > MOST_OF_A_TITLE:
                continue
            image = into / "images" / f"{name}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures[name], image)
            words = [word for word in works[name].keywords if not NO_KEYWORD.fullmatch(word)]
            captions = [*_named(title, words)[:2], _plain(works[name].description)]
            kept = list(dict.fromkeys(filter(None, captions)))
            yield {
                "image": f"images/{name}.png",
                "captions": kept,
                "label": name.partition("/")[0],
                "group": title.lower(),
            }

    count = write_lines(into / "pairs.jsonl", pairs())
    folders = {name.partition("/")[0] for name in titles}
    return {"pictures": len(pictures), "titled": len(titles), "pairs": count, "folders": len(folders)}


def _plain(text: str) -> str:
    """On one line, without underscores and with single blanks."""
    return " ".join(text.replace("_", " ").split())


def _named(name: str, keywords: Iterable[str]) -> list[str]:
    """Captions in small letters: "name: keyword, keyword", "name", and each keyword, without what is there already."""
    name, *others = dict.fromkeys(filter(None, (_plain(text).lower() for text in (name, *keywords))))
    return list(dict.fromkeys([f"{name}: {', '.join(others)}" if others else name, name, *others]))


CONVERTERS: dict[str, Callable[[Path, list[str], Path], Counts]] = {
    function.__name__: function
    for function in (copy_files, brown, moses, rotten_tomatoes, fashion_mnist, wordnet_glosses, emoji, openclipart)
}


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> int:
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
