"""MAE against `transformers` from the same random weights: predictions, loss and every gradient, for the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.pictured import IMAGES, PATCHES, ROWS, SIZES, Ours, compare, pixels, round_trip
from parity.reference import randomised
from pretrainx.core.errors import DataError
from pretrainx.interop import directory
from pretrainx.models.patches import patchify

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

NOISE = np.random.default_rng(2).random((ROWS, PATCHES))
DECODER = {"decoder_hidden_size": 20, "decoder_num_attention_heads": 5, "decoder_num_hidden_layers": 2}
DECODER |= {"decoder_intermediate_size": 28}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", **changes):
    """Random weights, but for the fixed tables, which the library writes for its own models and not for one from a config."""
    import torch
    import transformers
    from transformers.models.vit_mae import modeling_vit_mae

    config = transformers.ViTMAEConfig(**{**SIZES, **DECODER, **changes})
    model = randomised(transformers.ViTMAEForPreTraining(config), dtype)
    grid = config.image_size // config.patch_size
    with torch.no_grad():
        for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
            by_row = modeling_vit_mae.build_2d_sinusoidal_position_embedding(
                grid, grid, table.shape[-1], cls_token=True, dtype=table.dtype
            )
            table.copy_(torch.cat(by_row.chunk(2, dim=1)[::-1], 1))  # as its own `initialize_weights` turns it
    return model


def autoencoder(config, precision):
    return config.objective.build(config.model, config.images, precision)


@pytest.mark.parametrize("normalise, ratio", [(True, 0.75), (False, 0.6)])
def test_prediction_loss_and_every_gradient(tmp_path, normalise, ratio):
    import torch

    model = build(norm_pix_loss=normalise, mask_ratio=ratio)
    ours = Ours.of(model, tmp_path, autoencoder)
    objective = ours.objective
    found = model(pixels(), noise=torch.tensor(NOISE))
    order = np.argsort(NOISE, 1)
    restore = np.argsort(order, 1)
    hidden = restore >= objective.visible
    assert np.array_equal(found.mask.numpy() > 0, hidden) and objective.config.normalise_pixels == normalise
    predict = lambda params: objective.model.apply({"params": params}, IMAGES, order[:, : objective.visible], restore)
    targets = objective.targets(patchify(jnp.asarray(IMAGES), 5))
    inputs = {"image": IMAGES, "order": order, "restore": restore}
    scored = ours.scored(predict, {}, inputs, targets, {"mse": hidden.astype(np.float32)})
    compare(ours, model, scored, found.logits, found.loss)


def test_round_trip_is_bit_identical(tmp_path):
    import torch

    model = build("float32")
    noise = torch.tensor(NOISE)
    wanted = model(pixels().float(), noise=noise).logits
    for loaded in round_trip(model, tmp_path):
        assert torch.equal(loaded(pixels().float(), noise=noise).logits, wanted)


def test_other_tables_are_refused(tmp_path):
    """Zeros, as a model has that was made of a config alone."""
    import torch

    model = build("float32")
    with torch.no_grad():
        model.decoder.decoder_pos_embed.zero_()
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="another one") as caught:
        directory.read(tmp_path)
    assert caught.value.where.endswith("decoder.decoder_pos_embed") and "1.0e+00 away" in caught.value.why
