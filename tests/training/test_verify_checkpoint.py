"""The host's checksum is the device's, for every dtype and size."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pretrainx.training import checksum as device
from pretrainx.training import verify as host

DTYPES = [
    np.float32,
    np.float64,
    np.int32,
    np.uint8,
    np.int8,
    np.uint16,
    bool,
    ml_dtypes.bfloat16,
    np.float16,
    np.int64,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (3, 4, 33), (0, 4)])
def test_equal_to_the_devices_checksum(dtype, shape):
    rng = np.random.default_rng(0)
    leaf = rng.integers(0, 2, shape).astype(bool) if dtype is bool else (100 * rng.standard_normal(shape)).astype(dtype)
    with jax.enable_x64(True):
        assert host.checksum(leaf) == int(device.checksum(jnp.asarray(leaf)))


def test_pieces_and_strides(monkeypatch):
    leaf = np.random.default_rng(1).standard_normal((40, 50)).astype(np.float32)
    whole = host.checksum(leaf)
    monkeypatch.setattr(host, "_PIECE", 17)
    assert host.checksum(leaf) == whole != host.checksum(leaf[:, ::-1])
    assert host.checksum(np.asfortranarray(leaf)) == whole == host.checksum(leaf.astype(">f4"))


def test_every_flipped_bit_is_seen():
    leaf = np.random.default_rng(2).standard_normal((8, 4)).astype(np.float32)
    words = leaf.view(np.uint32)
    whole = host.checksum(leaf)
    for place in np.ndindex(words.shape):
        for bit in range(32):
            spoilt = words.copy()
            spoilt[place] ^= np.uint32(1) << np.uint32(bit)
            assert host.checksum(spoilt.view(np.float32)) != whole
