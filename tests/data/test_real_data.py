"""Fetched sets, where a person or a CI job fetched them: what a run reads of them. Nothing is downloaded here."""

import os
from pathlib import Path

import numpy as np
import pytest

from pretrainx.core.records import ImageRows, TextRows
from pretrainx.data.fetch import verify_fetched
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.manifest import ENTRIES
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
    text = bool(row.source) and not row.test_reads
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
