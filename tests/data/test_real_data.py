"""Fetched sets, where a person or a CI job fetched them: what a run reads of them. Nothing is downloaded here."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretrainx.core.records import ImageRows, PairRows, TextRows
from pretrainx.data.fetch import verify_fetched
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.manifest import ENTRIES
from pretrainx.data.pairs import PairConfig, prepare_pairs
from pretrainx.data.sources import documents
from pretrainx.data.text import TextConfig, prepare

PLACE = Path(os.environ.get("PRETRAINX_DATA", "fetched"))
# Documents, and a range of millions of characters.
READ = {
    "state-of-the-union": (233, 10.5, 11.0),
    "brown": (500, 6.0, 6.3),
    "rotten-tomatoes": (range(9_500, 11_000), 1.0, 1.6),
    "wordnet-glosses": (range(117_000, 118_500), 7.0, 10.5),
    "moses": (1_584_663, 56.0, 58.0),
}


def fetched(name):
    """The directory of a set, or a skip that says how to get it."""
    if not (PLACE / name).is_dir():
        pytest.skip(f"pretrainx data fetch {name} --dest={PLACE}   (PRETRAINX_DATA names the place)")
    return PLACE / name


@pytest.mark.realdata
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_a_fetched_set_is_as_it_was_written_and_reads(name):
    directory, row = fetched(name), ENTRIES[name]
    assert name in verify_fetched(directory)
    text = bool(row.source) and not row.modality.startswith("images")
    assert (name in READ) == text
    if text:
        count, least, most = READ[name]
        texts = [document.text for document in documents(row.source, (str(directory / row.reads),))]
        assert len(texts) in count if isinstance(count, range) else len(texts) == count
        assert least < sum(map(len, texts)) / 1e6 < most


@pytest.mark.realdata
def test_addresses_pack_and_come_back(tmp_path):
    paths = (f"{fetched('state-of-the-union')}/*.txt",)
    config = TextConfig(source="text", paths=paths, tokenizer="bytes", length=512, held_out=0.1, packing="documents")
    text = prepare(config, tmp_path / "data", lambda line: None)
    assert text.split("train", "")["fill"] > 0.99
    rows = text.rows("train", "", TextRows(513, 1, ("segments",)))
    batch = rows.rows(range(len(rows)))
    targets = (batch["segments"][:, 1:] == batch["segments"][:, :-1]) & (batch["segments"][:, 1:] > 0)
    facts = text.split("train", "")
    assert targets.sum() == facts["tokens"] - facts["documents"]


@pytest.mark.realdata
def test_garments_are_prepared_whole(tmp_path):
    """Counts, names and statistics that are known of the set; batches that come back the same."""
    directory, row = fetched("fashion-mnist"), ENTRIES["fashion-mnist"]
    config = ImageConfig(
        source=row.source, paths=(str(directory / row.reads),), test_paths=(str(directory / row.test_reads),)
    )
    pictures = prepare_images(config, tmp_path / "data", lambda line: None)
    facts = pictures.meta["splits"]
    assert facts["train"]["pictures"] + facts["held_out"]["pictures"] == 60_000
    assert np.add(facts["train"]["counts"], facts["held_out"]["counts"]).tolist() == [6_000] * 10
    assert facts["test"]["counts"] == [1_000] * 10 and not any(split["bad"] for split in facts.values())
    about = pictures.images
    assert (about.size, about.channels, about.classes[0], about.classes[9]) == (28, 1, "T-shirt/top", "Ankle boot")
    # Of all 60,000: 0.2860 and 0.3530.
    assert abs(about.mean[0] - 0.2860) < 1e-3 and abs(about.std[0] - 0.3530) < 1e-3
    rows = pictures.training_rows(ImageRows(28, 1, ("label",)), 256, 0)
    batch = rows.batch(1000)
    assert batch["image"].shape == (256, 28, 28, 1) and len(set(batch["label"])) == 10
    # Trousers are tall and narrow: the mean picture of each class is nearest to most of its own.
    images, labels = pictures.arrays("test")
    flat = np.asarray(images[:2000], np.float32).reshape(2000, -1)
    train, known = (np.asarray(values[:6000]) for values in pictures.arrays("train"))
    means = np.stack([train[known == label].reshape(-1, 784).mean(0) for label in range(10)])
    nearest = np.linalg.norm(flat[:, None] - means[None], axis=-1).argmin(1)
    assert 0.6 < (nearest == labels[:2000]).mean() < 0.75


@pytest.mark.realdata
def test_emoji_are_prepared_whole(tmp_path):
    """Every picture with its captions, all skin tones of one emoji in one split, categories as labels."""
    directory, row = fetched("emoji"), ENTRIES["emoji"]
    path = directory / row.reads
    lines = {line["image"]: line for line in map(json.loads, path.read_text("utf-8").splitlines())}
    assert len(lines) == 3786 and len({line["group"] for line in lines.values()}) == 1911
    assert all(Path(directory / image).is_file() for image in lines)
    config = PairConfig(source=row.source, paths=(str(path),), size=16, channels=3, held_out=0.1, vocab_size=2000)
    pairs = prepare_pairs(config, tmp_path / "data", lambda line: None)
    facts, groups = pairs.meta["splits"], {}
    assert sum(split["pictures"] for split in facts.values()) == 3786 and not any(
        split["bad"] for split in facts.values()
    )
    assert len(pairs.images.classes) == 10 and pairs.images.channels == 3
    known = {}
    for line in lines.values():
        known.setdefault(tuple(line["captions"]), set()).add(line["group"])
    for split in pairs.splits:
        captions = list(pairs.captions(split))
        groups[split] = set().union(*(known[each] for each in captions if len(known[each]) == 1))
        assert facts[split]["captions"]["captions"] == sum(map(len, captions)) > 5 * len(captions)
    assert not groups["train"] & groups["held_out"] and 100 < len(groups["held_out"]) < 280
    # Transparent corners are white.
    corners = pairs.arrays("train")[0][:, 0, 0]
    assert (corners == 255).all(-1).mean() > 0.8
    batch = pairs.training_rows(PairRows(16, 3, 32, 8, fields=("label",)), 256, 0).batch(1000)
    assert batch["tokens"].shape == (256, 8, 32) and (batch["tokens"][:, 0, 0] == pairs.vocabulary.special("bos")).all()


@pytest.mark.realdata
def test_drawings_are_prepared_whole(tmp_path):
    """Pictures of all sizes and modes of colour: none is bad but a few enormous ones, and no title is in two splits."""
    directory, row = fetched("openclipart"), ENTRIES["openclipart"]
    path = directory / row.reads
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    titles = Counter(line["group"] for line in lines)
    assert max(titles.values()) <= 3 and len({line["label"] for line in lines}) == 22
    config = PairConfig(source=row.source, paths=(str(path),), size=8, channels=3, held_out=0.1, vocab_size=2000)
    pairs = prepare_pairs(config, tmp_path / "data", lambda line: None)
    facts = pairs.meta["splits"].values()
    bad = [each["why"] for split in facts for each in split["bad"]]
    assert sum(split["pictures"] for split in facts) == len(lines) - len(bad) and len(bad) < 20
    assert all("pixels) exceeds limit" in why for why in bad)
    said = [{captions[0] for captions in pairs.captions(split)} for split in pairs.splits]
    assert not said[0] & said[1]
