"""GGUF files of LLaMA models: dequantised, brought into Hugging Face's names and row order, and read from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.interop.directory import Pretrained, assemble

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Of `tokenizer.ggml.pre`: how text is cut before merges. Others are regular expressions that the file does not hold.
DIGITS = {"smollm": True, "gpt-2": False}
CONTROL, BYTE = 3, 6  # of `tokenizer.ggml.token_type`


def read(path: str | Path, ids: int = 0, reader: Any = None) -> Pretrained:
    """The LLaMA model of a GGUF file in float32; `ids` as for a directory.

    `reader`: the opened file, where there is one: opening it takes seconds. Raises DataError for a file that is damaged or
    holds another architecture, ConfigError where the package `gguf` is not installed.
    """
    reader = reader or opened(path)
    fields = _fields(reader, str(path))
    heads, shared = (
        fields["attention.head_count"],
        fields.get("attention.head_count_kv", fields["attention.head_count"]),
    )
    tensors = _tensors(reader, {"attn_q": heads, "attn_k": shared})
    values = _config_json(fields, tensors, heads, shared, str(path))
    return assemble(values, tensors, str(path), ids)


def opened(path: str | Path) -> Any:
    """The file's reader, which maps the tensors."""
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "GGUF files need the package `gguf`",
            where=str(path),
            why=str(error),
            do="pip install 'pretrainx[gguf]'",
        ) from error
    try:
        return gguf.GGUFReader(str(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError("a GGUF file cannot be read", where=str(path), why=str(error), do="download it anew") from error


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key matrix [H K, D] from pairs (2j, 2j + 1), as the file has them, to pairs (j, j + K/2)."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def tokenizer_json(path: str | Path, reader: Any = None) -> str:
    """The byte-level BPE of a GGUF file as the text of a tokenizer.json."""
    reader = reader or opened(path)
    content = lambda name: _content(reader, f"tokenizer.ggml.{name}")
    kind, before = content("model"), content("pre")
    if kind != "gpt2" or before not in DIGITS:
        raise DataError(
            "the tokenizer of a GGUF file cannot be rebuilt",
            where=f"{path}: tokenizer.ggml.pre",
            why=f"model {kind!r}, pre {before!r}; known: model 'gpt2' with pre {', '.join(DIGITS)}",
            do="import the model from its Hugging Face directory",
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types, merges = (content(name) or [] for name in ("tokens", "token_type", "merges"))
    vocab, pairs = {token: index for index, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]
    try:
        inner = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            "the tokenizer of a GGUF file is damaged", where=str(path), why=str(error), do="download it anew"
        ) from error
    levels = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), *levels] if DIGITS[before] else levels
    )
    inner.decoder = decoders.ByteLevel()
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return json.dumps(json.loads(inner.to_str()), ensure_ascii=False, indent=2) + "\n"


def _content(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _fields(reader: Any, where: str) -> dict[str, Any]:
    """The keys of the architecture, without its name in front."""
    name = _content(reader, "general.architecture")
    if name != "llama":
        raise DataError(
            f"GGUF files of architecture {name!r} cannot be imported",
            where=f"{where}: general.architecture",
            why="known: llama",
            do="import the model from its Hugging Face directory",
        )
    found = {key.removeprefix("llama."): _content(reader, key) for key in reader.fields if key.startswith("llama.")}
    needed = {"block_count", "embedding_length", "feed_forward_length", "context_length", "attention.head_count"}
    needed.add("attention.layer_norm_rms_epsilon")
    known = needed | {"attention.head_count_kv", "rope.freq_base", "rope.dimension_count", "vocab_size"}
    known |= {"attention.key_length", "attention.value_length"}
    problems = [f"llama.{key}: missing" for key in sorted(needed - found.keys())]
    problems += [f"llama.{key}: unknown, {found[key]!r}" for key in sorted(found.keys() - known)]
    problems += [
        f"llama.{key}: {found[key]!r}, expected one number above 0 for all layers"
        for key in sorted(found.keys() & known)
        if not isinstance(found[key], (int, float)) or not found[key] > 0
    ]
    if problems:
        raise DataError(
            "the model's configuration cannot be followed",
            where=where,
            why="\n".join(problems),
            do="nothing is guessed: a key that is not understood may change the model's output",
        )
    return found


def _tensors(reader: Any, turned: dict[str, int]) -> dict[str, np.ndarray]:
    """All tensors in float32 under Hugging Face's names. `turned`: the heads of those whose rows are paired."""
    from gguf.quants import dequantize

    found = {}
    for tensor in reader.tensors:
        try:
            array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, ValueError) as error:
            raise DataError(
                "a tensor of a GGUF file cannot be dequantised",
                where=tensor.name,
                why=str(error) or tensor.tensor_type.name,
                do="give a file of another quantisation, or of float16",
            ) from error
        match tensor.name.split("."):
            case ["blk", layer, name, suffix] if name in NAMES:
                # Others than matrices of whole heads, such as biases, are refused later: no model here has them.
                if name in turned and array.ndim == 2 and len(array) % (2 * turned[name]) == 0:
                    array = halves(array, turned[name])
                found[f"model.layers.{layer}.{NAMES[name]}.{suffix}"] = array
            case [name, suffix] if name in NAMES:
                found[f"{NAMES[name]}.{suffix}"] = array
            case _:
                found[tensor.name] = array
    return found


def _config_json(
    fields: dict[str, Any], tensors: dict[str, np.ndarray], heads: int, shared: int, where: str
) -> dict[str, Any]:
    width = fields["embedding_length"]
    head_dim = fields.get("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.get(key, head_dim) != head_dim:
            raise DataError(
                "the heads of a GGUF file have no form here",
                where=f"{where}: llama.{key}",
                why=f"{fields[key]}, a head has {head_dim} dimensions",
                do="import a model whose heads are turned whole",
            )
    table = tensors.get("model.embed_tokens.weight", np.zeros((1, width)))
    return {
        "model_type": "llama",
        "vocab_size": int(table.shape[0]),
        "hidden_size": int(width),
        "intermediate_size": int(fields["feed_forward_length"]),
        "num_hidden_layers": int(fields["block_count"]),
        "num_attention_heads": int(heads),
        "num_key_value_heads": int(shared),
        "head_dim": int(head_dim),
        "hidden_act": "silu",
        "max_position_embeddings": int(fields["context_length"]),
        "rms_norm_eps": float(fields["attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields.get("rope.freq_base", 10_000.0))},
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "attention_bias": False,
        "mlp_bias": False,
    }
