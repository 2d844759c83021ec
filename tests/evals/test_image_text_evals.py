"""Retrieval, zero-shot and captions of an objective whose vectors are tables: everything by hand."""

import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import PairRows
from pretrainx.data.pairs import PairConfig, prepare_pairs
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals import beam, continuation, image_text
from pretrainx.evals.image_text import DECODINGS, ImageText, ImageTextConfig
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

TOKENIZER = Tokenizer.of_bytes(("bos",))
END, BEGIN = (TOKENIZER.vocabulary.special(name) for name in ("eos", "bos"))
LETTER_A = int(TOKENIZER.encode_batch(["a"])[0][0])
WIDTH, PICTURES = 12, 11
CLASSES = ("cat", "dog", "emu")
TEMPLATES = ("{}", "a {}", "{} or so")
unit = lambda z: z / np.linalg.norm(z, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Tables(Objective):
    """A picture's vector is the row of params["image"] that its first pixel names, a caption's the sum of its tokens' rows of
    params["text"], both made of length one."""

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        if names == ("image",):
            found = params["image"][inputs["image"][:, 0, 0, 0]]
        else:
            found = params["text"][inputs["tokens"]].sum(1)
        return {names[0]: found / jnp.linalg.norm(found, axis=-1, keepdims=True)}


@dataclass(frozen=True)
class Writing(Tables):
    """And it writes of a picture the letter that its first pixel names: likeliest of all, but not by far."""

    def cache(self, params, extras, rows, length, source=None):
        return source["image"][:, 0, 0].astype(jnp.int32) + LETTER_A

    def decode(self, params, extras, tokens, cache):
        wanted = jnp.where(tokens[:, -1:] == BEGIN, cache[:, :1], END)
        return jnp.where(jnp.arange(TOKENIZER.vocabulary.size) == wanted[..., None], 7.0, 0.0), cache


def rules(count=1):
    return Rules(make_mesh(MeshConfig(count), jax.devices()[:count]))


def tables(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.standard_normal((PICTURES, 4)).astype(np.float32),
        "text": rng.standard_normal((TOKENIZER.vocabulary.size, 4)).astype(np.float32),
    }


def build(
    config=ImageTextConfig(recall=(1, 5), captions_of_each=1, written=0), objective=Tables(), devices=1, captions=None
):
    images = np.zeros((PICTURES, 4, 4, 3), np.uint8) + np.arange(PICTURES, dtype=np.uint8)[:, None, None, None]
    captions = captions or [[f"{chr(97 + number)} picture", "another"] for number in range(PICTURES)]
    labels = np.arange(PICTURES, dtype=np.int32) % 3
    shared = TOKENIZER, "test", images, labels, captions, CLASSES, WIDTH, True
    return ImageText(objective, rules(devices), config, *shared)


def value(values, start):
    """Of the one metric, not an interval, whose name begins so; behind it stand the sizes of the comparison."""
    (found,) = [each for name, each in values.items() if name.startswith(start) and not name.endswith("/interval")]
    return found


def of_texts(compared, params, texts):
    return unit(params["text"][compared.rows_of(texts)].sum(1))


@pytest.mark.parametrize("devices", [1, 4])
def test_vectors_are_the_tables_on_any_number_of_devices(devices, monkeypatch):
    monkeypatch.setattr(image_text, "ROWS", 5)
    compared, params = build(devices=devices), tables()
    texts = [texts[0] for texts in compared.captions]
    np.testing.assert_allclose(compared.of_images(params, {}, compared.images), unit(params["image"]), rtol=1e-5)
    np.testing.assert_allclose(
        compared.of_texts(params, {}, texts), of_texts(compared, params, texts), rtol=1e-4, atol=1e-6
    )


def test_zero_shot_by_hand():
    """The mean of the templates' vectors of length one, made of length one; other ways would find otherwise."""
    found = {"ours": [], "one template": [], "not of length one": [], "lengths count": []}
    for seed in range(30):
        params, compared = tables(seed), build(ImageTextConfig(recall=(), templates=TEMPLATES, written=0))
        values = compared(params, {})
        each = np.stack([of_texts(compared, params, [t.format(name) for t in TEMPLATES]) for name in CLASSES])
        raw = np.stack(
            [params["text"][compared.rows_of([t.format(name) for t in TEMPLATES])].sum(1) for name in CLASSES]
        )
        score = lambda vectors, params=params: float(
            ((unit(params["image"]) @ vectors.T).argmax(1) == np.arange(PICTURES) % 3).mean()
        )
        found["ours"].append(value(values, "zero_shot/accuracy_3-classes_3-templates"))
        assert found["ours"][-1] == pytest.approx(score(unit(each.mean(1))))
        found["one template"].append(score(each[:, 0]))
        found["not of length one"].append(score(each.mean(1)))
        found["lengths count"].append(score(unit(raw.mean(1))))
    assert all(found[other] != found["ours"] for other in found if other != "ours")
    assert value(values, "zero_shot/chance_3-classes_3-templates") == pytest.approx(1 / 3)
    assert value(values, "zero_shot/largest-class_3-classes_3-templates") == pytest.approx(4 / 11)


def test_classes_by_other_names_stand_in_templates():
    params = tables()
    named = ImageTextConfig(recall=(), templates=TEMPLATES, classes=("emu", "cat", "dog"), written=0)
    one, other = build(named), build(replace(named, classes=()))
    other.classes = named.classes
    assert one(params, {}) == other(params, {})


def test_retrieval_asks_so_many_captions_of_each_picture():
    compared, params = build(), tables()
    compared.captions = [[f"{chr(97 + n)}", "no"] for n in range(PICTURES)]
    for number, row in enumerate(compared.rows_of([text for text, _ in compared.captions])):
        others = params["text"][row].sum(0) - params["text"][LETTER_A + number]
        params["text"][LETTER_A + number] = 10 * unit(params["image"][number]) - others
    assert value(compared(params, {}), "retrieval/image_to_text_recall@1") == 1
    assert value(compared(params, {}), "retrieval/text_to_image_recall@1") == 1
    every = replace(compared, config=replace(compared.config, captions_of_each=0))
    assert value(every(params, {}), "retrieval/image_to_text_recall@1") == 1, "one of its captions is enough"
    assert 0.4 < value(every(params, {}), "retrieval/text_to_image_recall@1") < 0.6
    compared.captions = [texts[::-1] for texts in compared.captions]
    assert value(compared(params, {}), "retrieval/text_to_image_recall@1") < 0.2


def test_vectors_that_are_all_alike_find_nothing():
    values = build()({name: np.ones_like(table) for name, table in tables().items()}, {})
    assert [value(values, f"retrieval/{way}_recall@5") for way in ("image_to_text", "text_to_image")] == [0, 0]


def test_a_limit_takes_the_first_pictures():
    compared = build(ImageTextConfig(limit=5, recall=(1,), captions_of_each=1, templates=("{}",)), Writing())
    values = compared(tables(), {})
    assert len(compared.images) == len(compared.captions) == len(compared.labels) == 5
    of_pictures = [name for name in values if "chance@" not in name]
    assert all(re.search(r"\D5(-images_5-captions)?/test", name) for name in of_pictures) and len(of_pictures) > 4
    assert {name.split("/")[0] for name in values} == {"retrieval", "zero_shot", "captions"}
    assert len(build(ImageTextConfig(limit=99)).images) == PICTURES


def test_stopped_anywhere_it_gives_nothing():
    compared, asked = build(ImageTextConfig(templates=("{}",)), Writing()), []
    assert compared(tables(), {}, lambda: asked.append(0)) and len(asked) >= 4
    for last in range(len(asked)):
        asked.clear()
        assert compared(tables(), {}, lambda last=last: asked.append(0) or len(asked) > last) == {}


@pytest.mark.parametrize("decoding", DECODINGS)
def test_captions_are_written_as_is_asked(decoding, monkeypatch):
    """Of all pictures, some at a time, each of its own; the kind of decoding is the one named."""
    monkeypatch.setattr(image_text, "ROWS", 4)
    calls = []
    for module, name in ((beam, "search"), (continuation, "generate")):
        was = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, was=was: calls.append((was, given)) or was(*given))
    config = ImageTextConfig(decoding=decoding, top_p=0.5, temperature=0.8, beams=3, beam_power=0.6)
    compared = build(config, Writing(), captions=[["x", chr(97 + n).upper()] for n in range(PICTURES)])
    assert compared.written({}, {}, 6) == ["a", "b", "c", "d", "e", "f"] and len(calls) == 2
    function, given = calls[0]
    assert function.__name__ == ("search" if decoding == "beam" else "generate")
    if decoding == "beam":
        assert given[4:8] == (BEGIN, WIDTH - 1, 3, END) and given[9] == 0.6
    else:
        drawn = decoding == "top_p"
        assert given[5:8] == (WIDTH - 1, [0.8 if drawn else 0.0] * 4, END) and given[10] == (0.5 if drawn else 1.0)
    values = compared.quality(compared.written({}, {}, 99))
    assert value(values, f"captions/exact_{decoding}") == 1, "in any case, of any of the captions"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    config = PairConfig(size=8, limit=40, held_out=0.3, vocab_size=300, length=32)
    return prepare_pairs(config, tmp_path_factory.mktemp("shapes") / "data", lambda line: None)


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("width", [6, 32])
def test_texts_are_framed_as_captions_are_in_training(pairs, width, begin):
    """Cut, too, with both ends."""
    reads = PairRows(8, 3, width, 2, begin)
    compared = replace(build(), tokenizer=pairs.tokenizer, width=width, begin=begin)
    texts, wanted = pairs.captions("held_out"), pairs.rows("held_out", reads).rows(range(8))["tokens"]
    for place in range(2):
        found = compared.rows_of([texts[number][place] for number in range(8)])
        np.testing.assert_array_equal(found, wanted[:, place])
    full = pairs.vocabulary.special("eos") == wanted[..., -1]
    assert full.any() == (width == 6) and (wanted[..., 0] == pairs.vocabulary.special("bos")).all() == begin


@pytest.mark.parametrize("template", ["a picture", "{} and {}"])
def test_a_template_has_one_place_for_the_class(template):
    with pytest.raises(ConfigError, match="no place for the class") as caught:
        ImageTextConfig(templates=("a {}", template))
    assert caught.value.where == "config.evals.image_text.templates" and repr(template) in caught.value.why


def test_each_class_has_a_name():
    with pytest.raises(ConfigError, match="named otherwise") as caught:
        build(ImageTextConfig(classes=("a", "b")))
    assert "2 names, the data have 3 classes: cat, dog, emu" in caught.value.why
