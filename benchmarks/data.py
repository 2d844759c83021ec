"""What a batch costs: early and late steps alternated, for a stream, packed documents and a mixture of two parts.

    python benchmarks/data.py [--cache=DIR] [--repeats=200]

Corpus: the Python standard library's source (and, as the mixture's second part, its json, email and http packages
weighted 0.3), tokens of bytes, rows of 512, batches of 32. Pairs are batch(i) and batch(10**7 + i), so that a busy machine is
busy for both; a fresh set of rows is made for each corpus, and no batch is read twice. `prepare` is the time to make the files.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sysconfig
import tempfile
import time

from pretrainx.core.records import TextRows
from pretrainx.data.corpus import Part
from pretrainx.data.rows import TrainingRows
from pretrainx.data.text import MixtureConfig, TextConfig, prepare

LENGTH, ROWS, LATE = 512, 32, 10**7


def corpora() -> dict[str, TextConfig | MixtureConfig]:
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    packages = tuple(str(library / name / "*.py") for name in ("json", "email", "http"))
    common = {"tokenizer": "bytes", "length": LENGTH}
    parts = (Part("library", 0.7), Part("packages", 0.3, "text", packages))
    return {
        "stream": TextConfig(**common),
        "documents": TextConfig(packing="documents", **common),
        "mixture": MixtureConfig(parts=parts, held_out=0.1, **common),
        "mixture of documents": MixtureConfig(parts=parts, held_out=0.1, packing="documents", **common),
    }


def alternated(rows: TrainingRows, repeats: int) -> tuple[float, float]:
    """(median seconds of an early batch, of a late one)."""
    times: dict[int, list[float]] = {0: [], LATE: []}
    for first in times:
        rows.batch(first)
    for number in range(1, repeats + 1):
        for first in times if number % 2 else reversed(times):
            started = time.perf_counter()
            rows.batch(first + number)
            times[first].append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[LATE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, help="keep the prepared corpora here")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    heads = ("prepare s", "rows", "fill", "first us", "batch(0) ms", "batch(10**7) ms", "ratio", "rows/s", "tokens/s")
    print(f"{'':<22}" + "".join(f"{head:>16}" for head in heads))
    with tempfile.TemporaryDirectory() as spare:
        for name, config in corpora().items():
            started = time.perf_counter()
            text = prepare(config, (options.cache or pathlib.Path(spare)) / name.replace(" ", "-"), lambda line: None)
            made = time.perf_counter() - started
            rows = text.training_rows(TextRows(LENGTH + 1, 1, ("segments",) if text.segmented else ()), ROWS, 0)
            started = time.perf_counter()
            rows.numbers(LATE * 3)
            seek = time.perf_counter() - started
            early, late = alternated(rows, options.repeats)
            splits = [text.split("train", part) for part in text.names]
            fill = "-"
            if text.segmented:
                fill = f"{sum(s['fill'] * s['rows'] for s in splits) / sum(s['rows'] for s in splits):.2%}"
            cells = (f"{made:.1f}", f"{len(rows.source):,}", fill, f"{seek * 1e6:.0f}", f"{early * 1e3:.3f}")
            cells += (f"{late * 1e3:.3f}", f"{late / early:.2f}", f"{ROWS / late:,.0f}", f"{ROWS * LENGTH / late:,.0f}")
            print(f"{name:<22}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
