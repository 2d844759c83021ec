"""Prepared pictures with captions: split by group, tokenised, counted, whole or not at all; what is bad, damaged or refused."""

import dataclasses
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest

from pretrainx.core.config import parse
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.images import Images
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import PairRows
from pretrainx.data import pairs as pairs_module
from pretrainx.data import shapes
from pretrainx.data.directory import held_kind, write_description
from pretrainx.data.pairs import PairConfig, prepare_pairs, train_tokenizer
from pretrainx.data.prepared import open_prepared
from pretrainx.data.prepared_pairs import open_pairs
from pretrainx.data.splits import fraction
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.data.verify import verify
from toys.pair_files import kept, members, record, write_set
from toys.pictures import noise, write_records
from toys.tf_example import example_class


def quiet(_):
    """A log that nobody reads."""


@pytest.fixture
def config(tmp_path):
    return write_set(tmp_path / "set", [record(number) for number in range(60)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same, prepared once for tests that only read it."""
    root = tmp_path_factory.mktemp("pairs")
    return prepare_pairs(write_set(root / "set", [record(number) for number in range(60)]), root / "data", quiet)


def test_every_picture_is_in_the_split_of_its_group_with_its_captions(made):
    assert made.splits == ("train", "held_out") and made.names == ("",) and held_kind(made.directory) == "pairs"
    for split in made.splits:
        numbers = members(split)
        images, labels = made.arrays(split)
        assert (np.asarray(images) == np.stack([noise(n, 6, 6) for n in numbers])).all()
        assert [made.images.classes[label] for label in labels] == [record(n)["label"] for n in numbers]
        captions = made.captions(split)
        assert len(captions) == len(numbers) and list(captions) == [kept(n) for n in numbers]
        assert captions[1:3] == [kept(n) for n in numbers[1:3]] and captions[-1] == kept(numbers[-1])
        with pytest.raises(IndexError):
            captions[len(numbers)]
    with pytest.raises(ConfigError, match="no split 'test'"):
        made.captions("test")
    assert made.about == Pairs(made.images, made.vocabulary) and isinstance(made.about.images, Images)
    assert made.vocabulary == made.tokenizer.vocabulary and made.vocabulary.special("bos") == 258


def test_what_was_counted(made, tmp_path):
    for split in made.splits:
        numbers, facts = members(split), made.meta["splits"][split]["captions"]
        texts = [text for n in numbers for text in kept(n)]
        assert facts["captions"] == len(texts) and facts["tokens"] == sum(map(len, texts))
        assert facts["empty"] == sum(len(record(n)["captions"]) - len(kept(n)) for n in numbers) > 0
        assert facts["cut"] == sum(len(text) > 7 for text in texts) > 0 and facts["cut_at"] == 9
        assert facts["duplicates"] == sum(texts.count(text) > 1 for text in texts) > 0
        assert made.meta["splits"][split]["bad"] == []
    lines = []
    prepare_pairs(write_set(tmp_path / "set", [record(n) for n in range(60)]), tmp_path / "data", lines.append)
    facts = made.meta["splits"]["train"]["captions"]
    said = next(line for line in lines if "train" in line and "captions" in line)
    assert f"{facts['captions']} captions" in said and f"{facts['cut']} do not fit into 9 tokens with both ends" in said
    assert f"{facts['empty']} empty" in said and f"{facts['duplicates']} are of several pictures" in said


def test_prepared_twice_it_is_the_same_bytes_and_again_it_is_opened(config, tmp_path, monkeypatch):
    first = prepare_pairs(config, tmp_path / "one", quiet)
    prepare_pairs(config, tmp_path / "two", quiet)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir()) and len(names) == 2 + 2 * 5
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    monkeypatch.setattr(pairs_module, "_make", lambda *_: pytest.fail("made again"))
    # One directory serves any length and any number of captions.
    other = dataclasses.replace(config, cache="x", length=20, captions=2, vocab_size=300)
    assert prepare_pairs(other, tmp_path / "one", quiet) == first == open_pairs(tmp_path / "one")
    for name, value in {"size": 4, "specials": ("bos", "cls"), "tokenizer": "bpe"}.items():
        with pytest.raises(DataError, match="another configuration") as caught:
            prepare_pairs(dataclasses.replace(config, **{name: value}), tmp_path / "one", quiet)
        assert f"config.data.{name}" in str(caught.value)
    for open_another in (open_prepared, lambda path: prepare_pairs(config, path, quiet)):
        with pytest.raises(DataError):
            open_another(tmp_path / "set")
    with pytest.raises(DataError, match="holds prepared pairs"):
        open_prepared(tmp_path / "one")


def test_bad_pictures_and_pictures_without_captions_are_skipped_by_policy(tmp_path):
    records = [record(number) for number in range(60)]
    train = members("train")
    records[train[0]]["captions"] = ["", " "]
    records[train[3]]["captions"] = 5
    config = dataclasses.replace(write_set(tmp_path / "set", records), bad_limit=0.2)
    (tmp_path / "set" / records[train[1]]["image"]).write_bytes(b"no picture")
    (tmp_path / "set" / records[train[2]]["image"]).unlink()
    pairs, lines = prepare_pairs(config, tmp_path / "data", quiet), []
    bad = pairs.meta["splits"]["train"]["bad"]
    assert [each["name"] for each in bad] == [records[n]["image"] for n in train[:4]]
    for each, says in zip(bad, ("2 empty ones", "UnidentifiedImage", "no file", "is a int"), strict=True):
        assert says in each["why"]
    assert pairs.bad_records == {"train": 4}
    assert list(pairs.captions("train")) == [kept(n) for n in train[4:]]
    assert (np.asarray(pairs.arrays("train")[0]) == np.stack([noise(n, 6, 6) for n in train[4:]])).all()
    lost = sum(len(record(n)["captions"]) - len(kept(n)) for n in train if n not in (train[0], train[3]))
    assert pairs.meta["splits"]["train"]["captions"]["empty"] == 2 + lost, "those of skipped pictures count too"
    with pytest.raises(DataError, match="too many pictures cannot be used"):
        prepare_pairs(dataclasses.replace(config, bad_limit=0.01), tmp_path / "few", lines.append)
    with pytest.raises(DataError, match="a picture cannot be used") as caught:
        prepare_pairs(dataclasses.replace(config, bad="stop"), tmp_path / "none", quiet)
    assert records[train[0]]["image"] in str(caught.value)
    assert any("skipped" in line for line in lines) and not (tmp_path / "few").exists()


def test_the_tokenizer_is_trained_on_the_captions_of_the_training_split(config, tmp_path):
    config = dataclasses.replace(config, tokenizer="bpe", vocab_size=300)
    pairs = prepare_pairs(config, tmp_path / "data", quiet)
    texts = [text for captions in pairs.captions("train") for text in captions]
    assert pairs.tokenizer.digest == Tokenizer.train(texts, 300, ("bos",)).digest
    assert list(pairs.captions("held_out")) == [kept(n) for n in members("held_out")]
    assert 258 < pairs.vocabulary.size <= 300
    tokenizer, held_out, tokens = train_tokenizer(config)
    assert tokenizer.digest == pairs.tokenizer.digest
    texts = [text for captions in pairs.captions("held_out") for text in captions]
    assert held_out == sum(len(text.encode()) for text in texts) and 0 < tokens < held_out
    # A tokenizer from a file, which must stay what it was.
    pairs.tokenizer.save(tmp_path / "t.json")
    given = dataclasses.replace(config, tokenizer=str(tmp_path / "t.json"))
    assert prepare_pairs(given, tmp_path / "given", quiet).vocabulary == pairs.vocabulary
    Tokenizer.of_bytes(("bos",)).save(tmp_path / "t.json")
    with pytest.raises(DataError, match="tokenizer changed"):
        prepare_pairs(given, tmp_path / "given", quiet)
    with pytest.raises(ConfigError, match="unknown tokenizer"):
        prepare_pairs(dataclasses.replace(config, tokenizer="byts"), tmp_path / "x", quiet)


def test_pairs_have_no_sentinels_to_ask_for(made):
    with pytest.raises(ConfigError, match="sentinels"):
        parse(PairConfig, {"sentinels": 2})
    assert PairConfig.sentinels == 0 and "sentinels" not in made.meta["preparing"] and not made.vocabulary.sentinels


def lower_casing(path):
    """A word-level tokenizer as other models have it: the text does not come back as it was."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, normalizers, pre_tokenizers

    words = {word: index for index, word in enumerate(("[PAD]", "[SEP]", "[UNK]", "thing", "variant"))}
    inner = Inner(models.WordLevel(words, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[PAD]", "[SEP]"])
    inner.save(str(path))


def test_texts_are_kept_where_the_tokenizer_loses_them(config, tmp_path):
    lower_casing(tmp_path / "t.json")
    config = dataclasses.replace(config, tokenizer=str(tmp_path / "t.json"), specials=())
    pairs = prepare_pairs(config, tmp_path / "data", quiet)
    assert not pairs.tokenizer.lossless
    assert list(pairs.captions("train")) == [kept(n) for n in members("train")]
    batch = pairs.rows("train", PairRows(6, 3, 7, begin=False)).rows([1])
    assert batch["tokens"][0, 0].tolist()[:4] == [3, 2, 4, 2]
    assert "captions" in verify(pairs.directory)[0]
    path = tmp_path / "data" / "train.captions.text.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=str(path)):
        open_pairs(tmp_path / "data")


@pytest.mark.parametrize("name", ["images", "labels", "captions.tokens", "captions.offsets", "captions.pictures"])
def test_a_damaged_file_is_named(config, tmp_path, name):
    prepare_pairs(config, tmp_path / "data", quiet)
    path = tmp_path / "data" / f"held_out.{name}.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damage in (content, content[:-1], None):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(DataError, match="damaged or missing") as caught:
            prepare_pairs(config, tmp_path / "data", quiet)
        assert str(path) in str(caught.value)


def test_verification_looks_behind_the_digests(config, tmp_path):
    pairs = prepare_pairs(config, tmp_path / "data", quiet)
    lines, facts = verify(tmp_path / "data"), pairs.meta["splits"]["train"]
    assert [line.partition(":")[0] for line in lines] == ["train", "held_out"]
    assert f"{facts['pictures']} pictures" in lines[0] and f"{facts['captions']['captions']} captions" in lines[0]

    def rewrite(part, content):
        path = tmp_path / "data" / f"train.captions.{part}.bin"
        before = path.read_bytes()
        path.write_bytes(content)
        meta = json.loads((tmp_path / "data" / "data.json").read_text())
        meta.pop("digest")
        meta["splits"]["train"]["captions"]["digests"][part] = hashlib.sha256(content).hexdigest()
        write_description(tmp_path / "data", meta)
        return path, before

    tables = {part: getattr(pairs.captions("train"), part).copy() for part in ("tokens", "offsets", "pictures")}
    for part, change, says in (
        ("tokens", lambda t: np.where(np.arange(len(t)) == 5, 259, t), "outside the vocabulary"),
        ("tokens", lambda t: t[:-1], "begins"),
        ("offsets", lambda t: np.concatenate([t[:3], t[3:4] + 10**6, t[4:]]), "begins"),
        ("offsets", lambda t: t[:-1], "begins"),
        ("pictures", lambda t: np.concatenate([t[:3], t[2:3], t[4:]]), "begins"),
        ("pictures", lambda t: t + (np.arange(len(t)) > 0), "begins"),
    ):
        path, before = rewrite(part, change(tables[part]).astype(tables[part].dtype).tobytes())
        with pytest.raises(DataError, match=says) as caught:
            verify(tmp_path / "data")
        assert "captions" in str(caught.value)
        rewrite(part, before)
    assert verify(tmp_path / "data") == lines


def test_what_is_tested_on_is_named(config, tmp_path):
    write_set(tmp_path / "other", [{"image": f"{n}.png", "caption": f"test {n}", "label": "dog"} for n in range(6)])
    both = dataclasses.replace(config, test_paths=(str(tmp_path / "other"),))
    pairs = prepare_pairs(both, tmp_path / "data", quiet)
    assert pairs.splits == ("train", "held_out", "test")
    order = sorted(range(6), key=lambda n: fraction(f"{n}.png"))
    assert list(pairs.captions("test")) == [(f"test {n}",) for n in order]
    assert pairs.arrays("test")[1].tolist() == [pairs.images.classes.index("dog")] * 6
    assert len(verify(tmp_path / "data")) == 3
    with pytest.raises(ConfigError, match="both trained and tested on"):
        prepare_pairs(dataclasses.replace(config, test_paths=config.paths), tmp_path / "x", quiet)
    with pytest.raises(ConfigError, match="takes no paths"):
        PairConfig(paths=("x",))
    with pytest.raises(ConfigError, match="needs paths"):
        PairConfig(source="tar")


@pytest.mark.parametrize("kind", ["tar", "array_record"])
def test_shards_are_prepared_as_lines_are(config, tmp_path, kind):
    """The same pictures, captions and labels; their names, and with them their order, are the shard's."""
    path = tmp_path / f"x.{kind}"
    contents = [(record(n), (tmp_path / "set" / record(n)["image"]).read_bytes()) for n in range(60)]
    if kind == "tar":
        with tarfile.open(path, "w") as opened:
            for number, (facts, content) in enumerate(contents):
                for suffix, held in (("png", content), ("json", json.dumps(facts).encode())):
                    item = tarfile.TarInfo(f"{number:02}.{suffix}")
                    item.size = len(held)
                    opened.addfile(item, io.BytesIO(held))
    else:
        examples = [example_class()() for _ in contents]
        for made, (facts, content) in zip(examples, contents, strict=True):
            values = {
                "image": [content],
                "captions": facts["captions"],
                "label": [facts["label"]],
                "group": [facts["group"]],
            }
            for key, texts in values.items():
                encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
                made.features.feature[key].bytes_list.value.extend(encoded)
        write_records(path, [made.SerializeToString() for made in examples])
    lines = prepare_pairs(config, tmp_path / "lines", quiet)
    shards = prepare_pairs(dataclasses.replace(config, source=kind, paths=(str(path),)), tmp_path / "shards", quiet)
    for split in lines.splits:
        told = []
        for each in (lines, shards):
            images, labels = each.arrays(split)
            told.append(sorted(zip((image.tobytes() for image in images), labels, each.captions(split), strict=True)))
        assert told[0] == told[1] and len(told[0]) == len(members(split))


def test_shapes_need_nothing(tmp_path):
    pairs = prepare_pairs(PairConfig(limit=50, size=10, vocab_size=400, held_out=0.2), tmp_path / "data", quiet)
    assert pairs.splits == ("train", "held_out", "test") and pairs.images.classes == shapes.CLASSES
    assert pairs.meta["splits"]["train"]["pictures"] == 50 and pairs.about.images.size == 10
    image, facts = shapes.told(1, 0, 10)
    found = [np.asarray(each).tobytes() for each in pairs.arrays("test")[0]].index(image.tobytes())
    assert pairs.captions("test")[found] == facts.captions()
    batch = next(pairs.held_out("", PairRows(10, 3, 32, 8, fields=("label",)), split="test").batches(4))
    assert (batch["captions"] == 4).all() and batch["tokens"].shape == (4, 8, 32)
