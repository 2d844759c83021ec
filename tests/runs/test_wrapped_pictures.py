"""Runs of pictures inside wrappers: what is looked at and written on the way, and the codes of a wrapped tokenizer."""

import numpy as np
import pytest
from PIL import Image

import pretrainx
from pretrainx.adapt.lora import Lora
from pretrainx.core.images import Images
from pretrainx.runs.caption import caption
from pretrainx.runs.evaluation_of_images import seen
from pretrainx.runs.parts import build
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train
from toys.pictures import noise

VIT = dict(name="vit", patch=4, width=16, depth=1, heads=2, unroll=0)
TEXT = dict(width=16, depth=1, heads=2, unroll=0)
COCA = dict(name="coca", image=VIT, text=TEXT, embedding=8, queries=3, pooler_heads=2)
LORA = dict(name="lora", rank=2)

pytestmark = pytest.mark.xdist_group("pictures")


def values(objective, model, data, **sections):
    return dict(
        objective=dict(name=objective, **sections.pop("chosen", {})),
        model=model,
        data=dict(dict(held_out=0.3) | data),
        schedule=dict(name="constant", peak=1e-2, warmup=0),
        train=dict(steps=sections.pop("steps", 1), batch_size=16),
        evals=dict(
            limit=16,
            image_text=dict(limit=16, recall=(1,), written=2, pictures=2),
            representations=dict(knn_k=0, pictures=2, train_limit=32, limit=16),
        ),
        **sections,
    )


SHAPES = dict(name="pairs", source="shapes", size=8, limit=64, vocab_size=270, length=12)
DIGITS = dict(name="images", source="digits")


def samples(workdir):
    return {path.name.partition("-")[2] for path in (workdir / "samples").glob("*.png")}


def test_views_inside_a_wrapper():
    """The pictures' mean and spread are those of the objective inside."""
    recipe, about = parse(values("simclr", VIT, DIGITS, adapt=LORA)), Images(8, 3, ("a", "b"), (0.5,) * 3, (0.3,) * 3)
    objective = build(recipe, about)
    assert isinstance(objective, Lora)
    ((name, _, picture),) = seen(objective, 0, np.stack([noise(seed, 8, 8, 3) for seed in range(2)]))
    assert name == "views" and len(np.unique(np.asarray(picture))) > 50


@pytest.mark.slow
@pytest.mark.rotated
def test_two_views_in_a_run(tmp_path):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    assert train(values("simclr", VIT, DIGITS, adapt=LORA), tmp_path / "run", say=lambda line: None) == 0
    assert samples(tmp_path / "run") == {"views.png", "neighbours.png"}


@pytest.mark.slow
@pytest.mark.rotated
def test_captions_of_a_run(tmp_path):
    workdir, picture = tmp_path / "run", tmp_path / "star.png"
    assert train(values("coca", COCA, SHAPES, adapt=LORA), workdir, say=lambda line: None) == 0
    assert samples(workdir) == {"captions.png", "neighbours.png", "retrieval.png"}
    Image.fromarray(noise(0, 8, 8, 3)).save(picture)
    assert isinstance(pretrainx.load(workdir).objective, Lora)
    prompt, written = caption(workdir, picture, prompt="a", max_tokens=3)
    assert prompt == "a" and isinstance(written, str)


@pytest.mark.slow
@pytest.mark.rotated
def test_codes_of_a_wrapped_tokenizer(tmp_path):
    """They are those of its network, with whatever the run kept beside it."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    tokenizer = dict(name="visual_tokenizer", codes=4, code_width=4, patch=2, width=8, blocks=0)
    plain = dict(augment=dict(name="none"))
    quiet = lambda line: None
    coded = values("vq_vae", tokenizer, DIGITS, chosen=plain, steps=30)
    assert train(coded, tmp_path / "source", say=quiet) == 0
    held = values(
        "vq_vae", tokenizer, DIGITS, chosen=plain, init_from=str(tmp_path / "source"), preserve=dict(name="l2_sp")
    )
    assert train(held, tmp_path / "tokenizer", say=quiet) == 0
    chosen = plain | dict(tokenizer=str(tmp_path / "tokenizer"), min_block=2)
    beit = VIT | dict(patch=2, positions="relative", mask_token=True)
    assert train(values("beit", beit, DIGITS, chosen=chosen), tmp_path / "beit", say=quiet) == 0
    source, run = pretrainx.load(tmp_path / "tokenizer"), pretrainx.load(tmp_path / "beit")
    np.testing.assert_array_equal(run.extras["tokenizer"]["codebook"], source.extras["inner"]["codebook"])
