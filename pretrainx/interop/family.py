"""What a family of another library's models is: how its config.json reads, and where its tensors lie in ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Row
from pretrainx.models.stack import StackConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Family:
    """One value of `model_type`.

    Attributes:
      kind: the section config.model of these models; of pictures, what takes its place.
      architecture: the class that a model is of, by its config.
      prefix: of all tensors but those of heads; files of the base model alone lack it.
      heads: how the names of tensors begin that never have the prefix.
      to_config: (keys of config.json, full names of the tensors) -> config.
      differing: {key of config.model: (value, what the family has)} of the habits that have no form there.
      from_config: (config, vocab_size, max_length) -> the keys of config.json that make the model.
      table: (config, vocab_size, ids, max_length) -> rows; `ids` is how many the model of ours has, its tables being padded
        from there.
      copies: {name of a tensor: the name of the one that it repeats}; they are in some files and not in others.
      base: the class without heads, whose files have no prefix; "" where such a model has no form here.
      buffers: names of what is stored but follows from the configuration, or is in no forward pass.
      constants: config -> {name: array} of stored tensors that follow from the configuration, and are no leaves of ours.
      described: (config, {file: content}, where) -> config with what the files beside config.json say of the model.
      beside: config -> {file: content} of what is to be written beside.
      zeros: (config, vocab_size) -> {name: shape} of stored tensors that must be zero: this model has no leaf for them.
      settled: (config, params, {"pad": id, ...}) -> (config, params) of the same function, where what is written depends on ids
        of the tokenizer. ConfigError where there is none.
      spare: names of what is left out where the model has no place for it: what other heads than its own would read.
      renamed: ((pattern, replacement), ...), names that old versions wrote.
      rows: values of config.json -> how many ids the token table has.
      file, weights: the names of the two files; told: values -> what is written into the first of them.
    """

    model_type: str
    kind: type
    architecture: Callable[[StackConfig], str]
    prefix: str
    to_config: Callable[[Keys, Collection[str]], StackConfig]
    differing: Callable[[StackConfig], dict[str, tuple[Any, Any]]]
    from_config: Callable[[StackConfig, int, int], dict[str, Any]]
    table: Callable[[StackConfig, int, int, int], tuple[Row, ...]]
    copies: Callable[[StackConfig], dict[str, str]]
    heads: tuple[str, ...] = ("lm_head.",)
    base: str = ""
    buffers: re.Pattern = re.compile(r"(?!)")
    constants: Callable[[Any], dict[str, np.ndarray]] = lambda config: {}
    described: Callable[[Any, dict[str, Any], str], Any] = lambda config, files, where: config
    beside: Callable[[Any], dict[str, dict[str, Any]]] = lambda config: {}
    zeros: Callable[[StackConfig, int], dict[str, tuple[int, ...]]] = lambda config, vocab_size: {}
    settled: Callable[[StackConfig, Any, Mapping[str, int]], tuple[StackConfig, Any]] = lambda config, params, special: (
        config,
        params,
    )
    spare: re.Pattern = re.compile(r"(?!)")
    renamed: tuple[tuple[re.Pattern, str], ...] = ()
    rows: Callable[[Mapping[str, Any]], int] = lambda values: values.get("vocab_size", 0)
    file: str = CONFIG
    weights: str = WEIGHTS
    told: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values

    def full(self, names: Collection[str]) -> dict[str, str]:
        """{name in a file: full name}: with the family's prefix and its names of today."""
        bare = not any(name.startswith(self.prefix) for name in names)
        found = {}
        for name in names:
            full = self.prefix + name if bare and not name.startswith(self.heads) else name
            for pattern, replacement in self.renamed:
                full = pattern.sub(replacement, full)
            found[name] = full
        return found

    def stored(self, config: StackConfig, name: str) -> str:
        """A full name as it is written."""
        return name.removeprefix(self.prefix) if self.architecture(config) == self.base else name


def unlike(config: StackConfig, habits: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what the family has)} of the habits that differ; of an activation that has no name there; of experts,
    which none has."""
    found = {
        name: (getattr(config, name), wanted) for name, wanted in habits.items() if getattr(config, name) != wanted
    }
    if config.activation not in ACTIVATIONS:
        found["activation"] = (config.activation, " or ".join(ACTIVATIONS))
    return found | ({"experts.count": (config.experts.count, 0)} if config.experts.count else {})


def shared_heads(config: StackConfig) -> dict[str, tuple[Any, Any]]:
    """The same for families whose keys and values have as many heads as queries."""
    return (
        {}
        if config.shared_heads == config.heads
        else {"kv_heads": (config.kv_heads, f"as many as heads, {config.heads}")}
    )


def plain_heads(config: StackConfig) -> dict[str, tuple[Any, Any]]:
    """The same for families whose heads side by side are as wide as the model, too."""
    whole = config.heads * config.head_size == config.width
    return shared_heads(config) | ({} if whole else {"head_dim": (config.head_size, "width / heads")})
