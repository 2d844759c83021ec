"""Fetched sets, where a person or a CI job fetched them: what a run reads of them. Nothing is downloaded here."""

import os
from pathlib import Path

import pytest

from pretrainx.core.records import TextRows
from pretrainx.data.fetch import verify_fetched
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
    assert (name in READ) == bool(row.source)
    if row.source:
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
