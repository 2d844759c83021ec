"""Masked language modelling: hide some tokens of a row, recover them from both sides (BERT: Devlin et al. 2019, section 3.1;
RoBERTa: Liu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, Outcome, Term, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes, sizes_conventions
from pretrainx.models.encoder import Encoder, EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy, masking
from pretrainx.objectives.autoregressive import restarting
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.objective import Objective, check_outputs
from pretrainx.objectives.seq2seq import text_length

# Labels of the second sentence (BERT's order): it goes on where the first ends, or is another row's.
CONTINUES, OTHER = 0, 1


@dataclass(frozen=True)
class MaskedLmConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      selection: "bernoulli" selects each token (or word) independently (RoBERTa); "exact" a fixed number of a row's tokens,
        round(mask_fraction x tokens), at least one (BERT).
      mask_fraction: share of tokens that are to be recovered; "exact" counts the frame's tokens too, as BERT does.
      mask_prob, random_prob, keep_prob: what stands in the place of a selected token: the mask token, a random id, the
        token itself. They sum to 1.
      random_specials: random ids may be special tokens.
      max_predictions: at most so many tokens of a row are recovered (BERT: 20 of 128). 0 is round(mask_fraction x T) for
        "exact"; for "bernoulli" the mean and six standard deviations (twelve for words); what is selected above that, in
        less than one row of five million, is hidden but has no weight.
      whole_word: all tokens of a word are selected, or none.
      gather: the head reads the selected tokens only, max_predictions of each row: the same loss for about a sixth of the
        head's work ("exact"), a quarter of it at T = 512 ("bernoulli"). Otherwise every token, the others with weight 0.
      special_tokens: rows are [CLS] text [SEP], in tokenizers without these "bos" text "eos"; T counts them.
      next_sentence: rows are [CLS] A [SEP] B [SEP], and whether B goes on where A ends or, in half of the rows, is another
        row's is a second term. The model needs a pooler and two types.
      short_fraction: this share of the rows is cut to a random length of 2 tokens or more (BERT: 0.1).
      loss: how tokens are scored.
    """

    selection: str = field(default="bernoulli", metadata={"choices": ("bernoulli", "exact")})
    mask_fraction: float = field(default=0.15, metadata={"above": 0, "max": 0.99})
    mask_prob: float = field(default=0.8, metadata={"min": 0, "max": 1})
    random_prob: float = field(default=0.1, metadata={"min": 0, "max": 1})
    keep_prob: float = field(default=0.1, metadata={"min": 0, "max": 1})
    random_specials: bool = False
    max_predictions: int = field(default=0, metadata={"min": 0})
    whole_word: bool = False
    gather: bool = True
    special_tokens: bool = True
    next_sentence: bool = False
    short_fraction: float = field(default=0.0, metadata={"min": 0, "max": 1})
    loss: TokenLoss = TokenLoss()

    def __post_init__(self):
        total = self.mask_prob + self.random_prob + self.keep_prob
        if abs(total - 1) > 1e-6:
            raise ConfigError(
                "what stands in the place of a selected token is not certain",
                where="config.objective.keep_prob",
                why=f"mask_prob {self.mask_prob} + random_prob {self.random_prob} + keep_prob {self.keep_prob} = {total:g}",
                do="let the three sum to 1, such as 0.8, 0.1, 0.1",
            )
        if self.next_sentence and not self.special_tokens:
            raise ConfigError(
                "two sentences need marks between them",
                where="config.objective.special_tokens",
                why="next_sentence reads [CLS] A [SEP] B [SEP]",
                do="--config.objective.special_tokens=True",
            )
        if self.next_sentence and self.whole_word:
            raise ConfigError(
                "the words of the other row are not known",
                where="config.objective.whole_word",
                why="next_sentence takes tokens of another row, and data give word starts of the row itself",
                do="choose one of whole_word and next_sentence",
            )

    @property
    def frame(self) -> int:
        """How many tokens of a row are marks around the text."""
        return (2 + self.next_sentence) if self.special_tokens else 0

    def predictions(self, length: int) -> int:
        """How many of T tokens have weight, at most."""
        if self.max_predictions:
            return min(self.max_predictions, length)
        if self.selection == "exact":
            return max(1, round(self.mask_fraction * length))
        return masking.bernoulli_bound(length, self.mask_fraction, self.whole_word)

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> MaskedLm:
        """`model` is the section `config.model`; `length` the data's T; `segmented`: rows hold several documents."""
        if not isinstance(model, EncoderConfig):
            raise ConfigError(
                "masked language modelling needs a model that reads both ways",
                where="config.model.name",
                why=f"the model is a {type(model).__name__.removesuffix('Config')}",
                do="--config.model.name=encoder",
            )
        if segmented and self.special_tokens:
            raise ConfigError(
                "documents that are packed into a row have no marks of their own around them",
                where="config.objective.special_tokens",
                why='config.data.packing is "documents"',
                do="--config.objective.special_tokens=False, or --config.data.packing=stream or single",
            )
        if self.next_sentence and not (model.pooler and model.types >= 2):
            raise ConfigError(
                "next-sentence prediction reads the pooled first token and tells two sentences by their type",
                where="config.model.pooler" if not model.pooler else "config.model.types",
                why=f"pooler {model.pooler}, types {model.types}",
                do="--config.model.pooler=True --config.model.types=2",
            )
        if length < self.frame + 2:
            raise ConfigError(
                "the rows have no room for text",
                where="config.data.length",
                why=f"{length} tokens, of which {self.frame} are marks",
                do=f"--config.data.length={self.frame + 2} or more",
            )
        vocabulary.require("pad", "mask", *(mark_names(vocabulary) if self.special_tokens else ()))
        model = model.build(vocabulary.size, length, precision, vocabulary.predicted)
        return MaskedLm(model, vocabulary, length, self, segmented)


@dataclass(frozen=True)
class MaskedLm(Objective):
    """Mean negative log-likelihood of the selected tokens, given the row in which they are hidden.

    Special tokens and padding are never selected; padding is never attended. Where rows hold several documents
    (`segmented`), tokens see their own document only and positions restart with each.

    Observations have inputs {"tokens", "segments", and where used "types", "positions"}, all int32[T]; targets int32[T], the
    text itself; weights {"nll": float32[T]}. With next-sentence prediction targets are {"tokens": int32[T],
    "next_sentence": int32[]} and the second term has weight one per row that has both sentences.
    """

    model: Encoder
    vocabulary: Vocabulary
    length: int
    config: MaskedLmConfig = MaskedLmConfig()
    segmented: bool = False

    @property
    def terms(self):
        return (Term("nll"),) + ((Term("next_sentence"),) if self.config.next_sentence else ())

    def trains(self, path):
        # Without its term the pooler of an imported encoder would only decay.
        return self.config.next_sentence or not path.startswith(("pooler/", "relation/"))

    @property
    def reads(self):
        asked = {"segments": self.segmented, "words": self.config.whole_word, "other": self.config.next_sentence}
        return TextRows(self.length - self.config.frame, 0, tuple(name for name, wanted in asked.items() if wanted))

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        return self.model.init(key, jnp.zeros((1, self.length), jnp.int32))["params"]

    def observe(self, key, example, step):
        config = self.config
        framing, selecting, replacing = jax.random.split(key, 3)
        inputs, words, label = self._framed(framing, example)
        tokens, real = inputs["tokens"], inputs["segments"] > 0
        never = tuple(token for _, token in self.vocabulary.specials) + self.vocabulary.sentinels
        candidates = real & ~jnp.isin(tokens, jnp.asarray(never, jnp.int32))
        drawn, most = masking.units(candidates, words), config.predictions(self.length)
        if config.selection == "exact":
            budgets = jnp.asarray(masking.budgets(self.length, config.mask_fraction, most))
            selected = masking.exact(selecting, candidates, budgets[real.sum()], drawn)
        else:
            selected = masking.bernoulli(selecting, candidates, config.mask_fraction, drawn)
        hidden = masking.replaced(
            replacing,
            tokens,
            selected,
            self.vocabulary.special("mask"),
            config.mask_prob,
            config.random_prob,
            self.vocabulary.predicted,
            () if config.random_specials else never,
        )
        inputs["tokens"] = hidden
        weights = {"nll": masking.first(selected, most).astype(jnp.float32)}
        if label is None:
            return Observation(inputs, tokens, weights)
        weights["next_sentence"] = (inputs["types"].sum() > 1).astype(jnp.float32)
        return Observation(inputs, {"tokens": tokens, "next_sentence": label}, weights)

    def _framed(self, key, example):
        """(inputs of the row as it is before anything is hidden, where a word begins bool[T] or None, label or None)"""
        config, pad = self.config, self.vocabulary.special("pad")
        text, words, label = example["tokens"], example.get("words"), None
        place = jnp.arange(self.length, dtype=jnp.int32)

        def end_of(text):
            # Where a document that ends with the closing mark ends before the row does, the mark is not doubled.
            end = _end(text != pad)
            return text_length({"tokens": text, "length": end}, closing) if config.special_tokens else end

        closing = marks(self.vocabulary)[1] if config.special_tokens else pad
        end = end_of(text)
        if config.next_sentence:
            # Both rows are cut to the shorter: the number of tokens does not tell which one the second sentence is from.
            end = jnp.minimum(end, end_of(example["other"]))
        if config.short_fraction:
            key, choosing, drawing = jax.random.split(key, 3)
            short = jax.random.uniform(choosing, (), jnp.float32) < config.short_fraction
            drawn = jax.random.randint(drawing, (), 2, jnp.maximum(end, 2) + 1, jnp.int32)
            end = jnp.where(short, jnp.minimum(end, drawn), end)
        if not config.special_tokens:
            inside = place < end
            inputs = {"tokens": jnp.where(inside, text, pad), "segments": inside.astype(jnp.int32)}
            if self.segmented:
                inputs["segments"] *= example["segments"]
                inputs["positions"] = restarting(inputs["segments"])
            return inputs, words, None
        begin, close = marks(self.vocabulary)
        tokens = jnp.pad(text, (1, config.frame - 1))
        split, last = end + 1, end + 1
        if config.next_sentence:
            choosing, drawing = jax.random.split(key)
            label = jax.random.bernoulli(choosing).astype(jnp.int32)
            split = jax.random.randint(drawing, (), 1, jnp.maximum(end, 2), jnp.int32) + 1
            second = jnp.where(label == OTHER, example["other"], text)
            tokens, last = jnp.where(place > split, jnp.pad(second, (2, 1)), tokens), end + 2
        tokens = jnp.where(place == 0, begin, jnp.where((place == split) | (place == last), close, tokens))
        inside = place <= last
        inputs = {"tokens": jnp.where(inside, tokens, pad), "segments": inside.astype(jnp.int32)}
        if config.next_sentence:
            inputs["types"] = (inside & (place > split)).astype(jnp.int32)
        return inputs, None if words is None else jnp.pad(words, (1, 1)), label

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        hidden = run("hidden", self._blocks(run, observation.inputs, keys if train else None))
        pair, weights = self.config.next_sentence, observation.weights["nll"]
        targets, read = observation.targets["tokens"] if pair else observation.targets, hidden
        if self.config.gather:
            count = self.config.predictions(self.length)
            positions, weights = jax.vmap(lambda row: masking.gather_positions(row, count))(weights)
            targets = jnp.take_along_axis(targets, positions, 1)
            read = jnp.take_along_axis(hidden, positions[..., None], 1)
        head = lambda x: run("logits", x)
        scored = cross_entropy.scored(head, read, targets, weights, "nll", self.config.loss.when(train))
        if not pair:
            return scored
        related = run("relation", run("pooled", hidden))
        return _both(scored, related, observation.targets["next_sentence"], observation.weights["next_sentence"])

    def _blocks(self, run, inputs, keys):
        positions = inputs.get("positions")
        x = run("embed", inputs["tokens"], keys, positions, inputs.get("types"))
        return run("blocks", x, keys, positions, self._segments(inputs))

    def _segments(self, inputs):
        padding = inputs["tokens"] == self.vocabulary.special("pad")
        return inputs["segments"] if "segments" in inputs else (~padding).astype(jnp.int32)

    @property
    def _predicted(self) -> int:
        """Tokens of a row that the head reads."""
        return self.config.predictions(self.length) if self.config.gather else self.length

    def flops_per_row(self):
        return sizes.encoder_flops_per_row(self.model.config, self.vocabulary.size, self.length, self._predicted)

    def flops_by_convention(self):
        """The marks around a row are no training tokens: those that go by the token do not count them."""
        per_token = sizes_conventions.encoder_flops(self.model.config, self.vocabulary.size, self.length)
        counted = {name: self.reads.width * flops for name, flops in per_token.items()}
        return counted | {"matmul_full": self.flops_per_row()}

    def parameter_counts(self):
        return sizes.encoder_counts(self.model.config, self.vocabulary.predicted, self.model.max_length)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits [B, T, V]; hidden [B, T, D]; features [B, D], the mean of hidden over real tokens; pooled [B, D] where the
        model has a pooler.

        inputs: {"tokens": int32[B, T]}, framed where the model was trained so; "segments", "positions" where rows hold
        several documents, "types" where they hold two sentences. Without segments the tokens but padding are one.
        """
        check_outputs(names, ("logits", "hidden", "features") + ("pooled",) * self.model.config.pooler)
        keys = jax.random.split(key, inputs["tokens"].shape[0]) if train else None
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        found = {"hidden": run("hidden", self._blocks(run, inputs, keys))}
        if "logits" in names:
            found["logits"] = run("logits", found["hidden"])[..., : self.vocabulary.size]
        if "features" in names:
            real = (self._segments(inputs) > 0)[..., None]
            total = jnp.where(real, found["hidden"], 0).sum(1)
            found["features"] = (total / jnp.maximum(real.sum(1), 1)).astype(total.dtype)
        if "pooled" in names:
            found["pooled"] = run("pooled", found["hidden"])
        return {name: found[name] for name in names}


def _end(real: jax.Array) -> jax.Array:
    """int32[]: how many tokens of a row come before its padding, of real bool[T]."""
    return jnp.where(real, jnp.arange(1, real.shape[0] + 1, dtype=jnp.int32), 0).max()


def _both(scored: Outcome, related: jax.Array, labels: jax.Array, weights: jax.Array) -> Outcome:
    """The outcome with the term and the accuracy of next-sentence prediction; related: float[B, 2], labels: int32[B]."""
    second = cross_entropy.outcome("next_sentence", cross_entropy.token_nll(related, labels), weights)
    accuracy = cross_entropy.share(related.argmax(-1) == labels, weights)
    return scored.replace(
        totals=scored.totals | second.totals,
        per_row=scored.per_row | second.per_row,
        metrics=scored.metrics | {"next_sentence_accuracy": accuracy},
    )


def marks(vocabulary: Vocabulary) -> tuple[int, int]:
    """(first, last) id around a text."""
    first, last = mark_names(vocabulary)
    return vocabulary.special(first), vocabulary.special(last)


def mark_names(vocabulary: Vocabulary) -> tuple[str, str]:
    """The names "cls" and "sep" (BERT), or where there are only those, "bos" and "eos" (RoBERTa)."""
    known = dict(vocabulary.specials)
    return ("bos", "eos") if "cls" not in known and "bos" in known else ("cls", "sep")
