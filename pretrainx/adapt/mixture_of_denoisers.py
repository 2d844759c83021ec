"""A mixture of denoisers for one model: spans short and long, many and few, and prefixes (UL2: Tay et al. 2022)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from pretrainx.adapt.mixture import Mixture
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.layers import Precision
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig


@dataclass(frozen=True)
class Denoiser:
    """One denoiser of the mixture.

    Attributes:
      name: of its terms and metrics.
      share: of the rows of every step.
      kind: "spans" (hidden spans are recovered) or "prefix" (what follows a split is).
      density, mean_span: of the hidden spans; see `SpanCorruptionConfig`.
      mode: the special token in front of the source that tells the model which denoiser it is; "" is none. It must be one
        of config.data.specials.
    """

    name: str
    share: float = field(metadata={"above": 0, "max": 1})
    kind: str = field(default="spans", metadata={"choices": ("spans", "prefix")})
    density: float = field(default=0.15, metadata={"above": 0, "below": 1})
    mean_span: float = field(default=3.0, metadata={"min": 1})
    mode: str = ""


@dataclass(frozen=True)
class MixtureOfDenoisersConfig:
    """The section `config.objective` of this paradigm: fixed shares of the rows of every step, one model.

    The defaults are the paper's three families (section 3.1), one of each: half of the rows have regular spans, a quarter
    extreme ones, a quarter is split in two; their modes need config.data.specials = ("regular", "extreme", "sequential").

    Attributes:
      denoisers: their shares sum to 1.
      loss: how tokens are scored.
    """

    denoisers: tuple[Denoiser, ...] = (
        Denoiser("regular", 0.5, mode="regular"),
        Denoiser("extreme", 0.25, density=0.5, mode="extreme"),
        Denoiser("sequential", 0.25, "prefix", mode="sequential"),
    )
    loss: TokenLoss = TokenLoss()

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> Mixture:
        """`model` is the section `config.model`, an encoder-decoder, or a decoder that reads sources as its prefix; `length` is
        the data's T, that of a source.

        Where positions are learned, the tables are as long as the longest denoiser needs.
        """
        modes = [one.mode for one in self.denoisers if one.mode]
        vocabulary.require(*modes, otherwise="leave the modes of config.objective.denoisers out")
        build = lambda one: self._config(one).build(model, vocabulary, length, precision, segmented)
        built = [(one.name, build(one), one.share) for one in self.denoisers]
        longest = max(task.model.max_length for _, task, _ in built)
        alike = lambda task: dataclasses.replace(task, model=task.model.clone(max_length=longest))
        return Mixture(tuple((name, alike(task), share) for name, task, share in built), by_share=True)

    def _config(self, one: Denoiser) -> SpanCorruptionConfig | PrefixLmConfig:
        if one.kind == "prefix":
            return PrefixLmConfig(mode=one.mode, loss=self.loss)
        return SpanCorruptionConfig(one.density, one.mean_span, one.mode, self.loss)
