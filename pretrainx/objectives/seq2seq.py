"""What objectives of sources share: a source is read, its targets are written token by token, by an encoder-decoder or by a
decoder that reads the source as its prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, Term
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import prefixed_decoder, sizes
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.prefixed_decoder import PrefixedDecoder
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.objective import Objective, check_outputs
from pretrainx.objectives.routing import refuse_experts


class Pair(NamedTuple):
    """One example as it is learned: int32[S] and int32[T], padded behind their lengths, int32[]."""

    source: jax.Array
    source_length: jax.Array
    targets: jax.Array
    target_length: jax.Array


@dataclass(frozen=True)
class Seq2Seq(Objective):
    """Mean negative log-likelihood of each target token given the source and the targets before it.

    A paradigm says how a row becomes a pair (`corrupt`), how long the two are at most (`widths`), and what the decoder reads
    first (`begin`).

    Attributes:
      loss: how tokens are scored.
    """

    model: EncoderDecoder | PrefixedDecoder
    vocabulary: Vocabulary
    loss: TokenLoss

    terms = (Term("nll"),)
    echoes = False  # whether the decoder writes the text of the source too, with what is hidden in its place

    @property
    def widths(self) -> tuple[int, int]:
        """(S, T): tokens of a padded source and of padded targets."""
        raise TypeError(f"{type(self).__name__} must give its widths")

    @property
    def begin(self) -> int:
        """The token id that the decoder reads first."""
        return self.vocabulary.special("pad")

    def corrupt(self, key: jax.Array, example: dict[str, jax.Array]) -> Pair:
        """Source and targets of one row."""
        raise TypeError(f"{type(self).__name__} must make a source and targets")

    @property
    def front(self) -> tuple[int, ...]:
        """Ids that stand before the text of a source."""
        return ()

    @property
    def back(self) -> tuple[int, ...]:
        """Ids that stand behind the text of a source."""
        return ()

    @property
    def gaps(self) -> dict[str, int]:
        """{name: id} of what stands for hidden text in a source, in the order of use; without any a source is text alone."""
        return {}

    def asking(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source that asks how a text int32[m] goes on, what the decoder has read when it comes to that), `begin` first."""
        gap = list(self.gaps.values())[:1]
        source = np.array([*self.front, *text, *gap, *self.back], np.int32)
        return source, np.array([self.begin, *([*self.front, *text] if self.echoes else gap)], np.int32)

    def measured(self, observation: Observation, hits: jax.Array) -> dict[str, Any]:
        """Further metrics, of hits bool[B, T]."""
        return {}

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        source, target = (jnp.zeros((1, width), jnp.int32) for width in self.widths)
        return self.model.init(key, source, target)["params"]

    def observe(self, key, example, step):
        pair = self.corrupt(key, example)
        tokens = jnp.concatenate([jnp.full(1, self.begin, jnp.int32), pair.targets[:-1]])
        # A row without text teaches nothing, not even its end; the last piece of a document may be its end alone.
        some = text_length(example, self.vocabulary.special("eos")) > 0
        real = (jnp.arange(pair.targets.shape[0]) < pair.target_length) & some
        inputs = {"source": pair.source, "source_length": pair.source_length, "tokens": tokens}
        return Observation(inputs, pair.targets, {"nll": real.astype(jnp.float32)})

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        keys = keys if train else None
        memory, segments = self._read(run, observation.inputs, keys)
        outcome, hits = cross_entropy.judged(
            lambda hidden: run("logits", hidden),
            self._written(run, observation.inputs["tokens"], memory, segments, keys),
            observation.targets,
            observation.weights["nll"],
            "nll",
            self.loss.when(train),
        )
        return outcome.replace(metrics=outcome.metrics | self.measured(observation, hits))

    def _read(self, run, inputs, keys=None):
        """(memory [B, S, D], segments int32[B, S]) of the source."""
        source = inputs["source"]
        if "source_length" in inputs:
            real = jnp.arange(source.shape[1]) < inputs["source_length"][:, None]
        else:
            real = source != self.vocabulary.special("pad")
        segments = real.astype(jnp.int32)
        return run("blocks", run("embed", source, keys), keys, segments), segments

    def _written(self, run, tokens, memory, segments, keys=None):
        """Normalised output of the decoder, [B, T, D]."""
        return run("hidden", run("target_blocks", run("embed_targets", tokens, keys, segments), memory, keys, segments))

    def flops_per_row(self):
        return self._flops(masked=False)

    def flops_by_convention(self):
        return {"matmul_full": self._flops(masked=True)}

    def _flops(self, masked: bool) -> float:
        alone = isinstance(self.model, PrefixedDecoder)
        counted = sizes.prefixed_decoder_flops_per_row if alone else sizes.encoder_decoder_flops_per_row
        return counted(self.model.config, self.vocabulary.size, *self.widths, masked=masked)

    def parameter_counts(self):
        alone = isinstance(self.model, PrefixedDecoder)
        counted = sizes.decoder_counts if alone else sizes.encoder_decoder_counts
        return counted(self.model.config, self.vocabulary.predicted, self.model.max_length)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits [B, T, V] and hidden [B, T, D] of the decoder; features [B, D], means over the source.

        inputs: {"source": int32[B, S]}; "source_length" int32[B] (without it padding ids end a source); "tokens" int32[B, T],
        what the decoder reads: its first token and the targets but for the last. Features need no tokens.
        """
        check_outputs(names, ("logits", "hidden", "features"))
        for name in names:
            if name != "features" and "tokens" not in inputs:
                raise ValueError(f"the output {name!r} needs the decoder's tokens beside the source")
        keys = jax.random.split(key, inputs["source"].shape[0]) if train else None
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        memory, segments = self._read(run, inputs, keys)
        found = {}
        if "features" in names:
            real = (segments > 0)[..., None]
            read = run("source_hidden", memory, keys, segments)
            found["features"] = jnp.where(real, read, 0).sum(1) / jnp.maximum(real.sum(1), 1)
        if "hidden" in names or "logits" in names:
            found["hidden"] = self._written(run, inputs["tokens"], memory, segments, keys)
        if "logits" in names:
            found["logits"] = run("logits", found["hidden"])[..., : self.vocabulary.size]
        return {name: found[name] for name in names}

    def cache(self, params, extras, rows, length, source=None):
        """source: {"source", "source_length"} as `outputs` has them; it is read here, once."""
        if source is None:
            raise ValueError("the model decodes what follows from a source: give it as source={...}")
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        return run("start", *self._read(run, source), length)

    def decode(self, params, extras, tokens, cache):
        """The first of all tokens is `begin`."""
        logits, cache = self.model.apply({"params": params}, tokens, cache, method="decode")
        return logits[..., : self.vocabulary.size], cache


def text_length(example: dict[str, jax.Array], end: int) -> jax.Array:
    """int32[]: how many tokens of a row are text: where a document ends before the row does, without its end token, since
    source and targets get one of their own. The end of one that fills its row is text: full rows have one length, as those of
    a stream."""
    tokens, length = example["tokens"], example["length"]
    return length - ((length < tokens.shape[0]) & (length > 0) & (tokens[length - 1] == end)).astype(jnp.int32)


def built(
    name: str,
    model: Any,
    vocabulary: Vocabulary,
    widths: tuple[int, int],
    precision: Precision,
    segmented: bool,
    alone: bool = True,
) -> EncoderDecoder | PrefixedDecoder:
    """The model of an objective `name` for sources and targets of these widths; ConfigError where it cannot have one.

    alone: whether a decoder alone can be one.
    """
    if not isinstance(model, (EncoderDecoderConfig, *([DecoderConfig] * alone))):
        raise ConfigError(
            f"the objective {name!r} needs an encoder-decoder" + ", or a decoder" * alone,
            where="config.model.name",
            why=f"the section is a {type(model).__name__}",
            do="--config.model.name=encoder_decoder" + ", or decoder" * alone,
        )
    unsegmented(name, segmented)
    sizes_of = vocabulary.size, *widths, precision, vocabulary.predicted
    if isinstance(model, DecoderConfig):
        refuse_experts(name, model)
        return prefixed_decoder.built(model, *sizes_of)
    return model.build(*sizes_of)


def unsegmented(name: str, segmented: bool) -> None:
    """ConfigError where rows hold several documents side by side."""
    if segmented:
        raise ConfigError(
            f"the objective {name!r} does not read rows of several documents",
            where="config.data.packing",
            why="what is hidden would cross from one document to the next",
            do="--config.data.packing=stream, or single for one document a row",
        )
