"""Sixty pictures with captions, labels and groups in a JSON-lines file, and what becomes of them."""

import json

from pretrainx.core.records import PairRows
from pretrainx.data.pairs import PairConfig
from pretrainx.data.splits import fraction
from toys.pictures import noise, write

HELD_OUT = 0.3
READS = PairRows(6, 3, 12, 3, fields=("label",))


def record(number):
    """Three variants of each of 20 things; the captions of 1 in 5 are too long for a row, some are empty."""
    long = " with " + "very " * 10 + "long ears" if number % 5 == 0 else ""
    captions = [
        f"thing {number // 3} variant {number % 3}{long}",
        f"thing {number // 3}",
        *([" "] if number % 7 == 0 else []),
    ]
    return {
        "image": f"images/{number:02}.png",
        "captions": captions[: 1 + number % 4],
        "label": ("cat", "dog")[number % 2],
        "group": f"thing {number // 3}",
    }


def write_set(root, records):
    for number, each in enumerate(records):
        write(root / each["image"], noise(number, 6, 6))
    (root / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return PairConfig(
        source="jsonl", paths=(str(root / "pairs.jsonl"),), held_out=HELD_OUT, tokenizer="bytes", length=9
    )


def kept(number):
    return tuple(caption for caption in record(number)["captions"] if caption.strip())


def members(split):
    """The numbers of a split's records, in its order."""
    held_out = split == "held_out"
    found = [n for n in range(60) if (fraction(record(n)["group"]) < HELD_OUT) == held_out]
    return sorted(found, key=lambda n: fraction(record(n)["image"])) if held_out else found
