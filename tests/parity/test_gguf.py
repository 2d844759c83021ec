"""GGUF files written by the library that reads them everywhere: rows paired as llama.cpp pairs them, read back as they were."""

import json

import jax
import numpy as np
import pytest

from interop.made import LLAMA, make, tensors
from pretrainx.core import paths
from pretrainx.core.errors import DataError
from pretrainx.data.pieces import byte_characters
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.interop import directory, gguf

MODEL = {**LLAMA, "rms_norm_eps": 2**-20, "vocab_size": 257}
NAMES = {theirs: ours for ours, theirs in gguf.NAMES.items()}


@pytest.fixture(autouse=True)
def library():
    return pytest.importorskip("gguf", reason="gguf is not installed: pip install 'pretrainx[gguf]'")


def interleaved(rows, heads):
    """Row (half s, index j) of each head goes to 2 j + s: what llama.cpp's converter does to queries and keys."""
    out = np.empty_like(rows)
    size = len(rows) // heads
    for head in range(heads):
        for half in range(2):
            for index in range(size // 2):
                out[head * size + 2 * index + half] = rows[head * size + half * size // 2 + index]
    return out


def write(path, library, pre="smollm", added=(), **more):
    """A file of the hand-made LLaMA model and a tokenizer: byte 255, which no text holds, gave its id to a merge.

    `added`: names of more tensors, of 5 numbers each.
    """
    writer = library.GGUFWriter(str(path), "llama")
    writer.add_block_count(3)
    writer.add_context_length(40)
    writer.add_embedding_length(15)
    writer.add_feed_forward_length(22)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(6)
    writer.add_value_length(6)
    writer.add_rope_dimension_count(6)
    writer.add_rope_freq_base(30000.0)
    writer.add_layer_norm_rms_eps(2**-20)
    writer.add_vocab_size(257)
    for name, value in more.items():
        writer.add_float32(f"llama.{name}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*byte_characters()[:255], "on", "<|endoftext|>"])
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["o n"])
    for name, array in tensors(MODEL).items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        writer.add_tensor(_name(name), interleaved(array, heads) if heads else array)
    for name in added:
        writer.add_tensor(name, np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name):
    *_, suffix = name.split(".")
    stem = name.removesuffix(f".{suffix}")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{suffix}"


def test_a_file_is_the_directory_that_it_was_made_from(tmp_path, library):
    found = gguf.read(write(tmp_path / "model.gguf", library))
    wanted = directory.read(make(tmp_path / "hf", MODEL))
    assert found.config == wanted.config
    pairs = zip(paths.leaves(found.params), paths.leaves(wanted.params), strict=True)
    assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)
    assert jax.tree.structure(found.params) == jax.tree.structure(wanted.params)


def test_its_tokenizer(tmp_path, library):
    path = tmp_path / "tokenizer.json"
    path.write_text(gguf.tokenizer_json(write(tmp_path / "model.gguf", library)))
    tokenizer = Tokenizer.load(path)
    assert (tokenizer.vocabulary.size, tokenizer.end) == (258, 256)
    assert tokenizer.encode_batch(["<|en on 12"])[0].tolist() == [*b"<|en ", 255, *b" 12"]
    digits = json.loads(path.read_text())["pre_tokenizer"]["pretokenizers"][0]
    assert digits == {"type": "Digits", "individual_digits": True}


def test_what_cannot_be_followed(tmp_path, library):
    with pytest.raises(DataError, match="rope.scaling.factor: unknown, 8.0"):
        gguf.read(write(tmp_path / "scaled.gguf", library, **{"rope.scaling.factor": 8.0}))
    with pytest.raises(DataError, match="pre 'llama-bpe'"):
        gguf.tokenizer_json(write(tmp_path / "regex.gguf", library, pre="llama-bpe"))
    odd = ("alone", "blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.weight", "blk.attn_q.weight", "a.0.attn_q.b.weight")
    with pytest.raises(DataError) as caught:
        gguf.read(write(tmp_path / "more.gguf", library, added=odd))
    found = [line.partition(": not used, [5]")[0] for line in caught.value.why.splitlines()]
    biases = {f"blk.0.attn_{name}.bias": f"model.layers.0.self_attn.{name}_proj.bias" for name in "qk"}
    assert sorted(found) == sorted(biases.get(name, name) for name in odd)
    (tmp_path / "torn.gguf").write_bytes((tmp_path / "scaled.gguf").read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read"):
        gguf.read(tmp_path / "torn.gguf")
    with pytest.raises(DataError, match="cannot be read"):
        gguf.read(tmp_path / "missing.gguf")
