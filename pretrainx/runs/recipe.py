"""The whole configuration of a run, and the tables of names that its sections choose from."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrainx.adapt.methods import METHODS, PRESERVING
from pretrainx.adapt.mixture_of_denoisers import MixtureOfDenoisersConfig
from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.data.images import ImageConfig
from pretrainx.data.labelled import LabelledConfig
from pretrainx.data.pairs import PairConfig
from pretrainx.data.text import MixtureConfig, TextConfig
from pretrainx.evals.fisher import FisherConfig
from pretrainx.evals.image_text import ImageTextConfig
from pretrainx.evals.membership import MembershipConfig
from pretrainx.evals.pruning import PruningConfig
from pretrainx.evals.representations import RepresentationConfig
from pretrainx.evals.transfer import TransferConfig
from pretrainx.models.coca import CocaConfig as CocaModelConfig
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.beit import BeitConfig
from pretrainx.objectives.byol import ByolConfig
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.objectives.clip import ClipConfig
from pretrainx.objectives.coca import CocaConfig
from pretrainx.objectives.denoising import DenoisingConfig
from pretrainx.objectives.dino import DinoConfig
from pretrainx.objectives.dvae import DvaeConfig
from pretrainx.objectives.mae import MaeConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.moco import MocoConfig
from pretrainx.objectives.moco_v3 import MocoV3Config
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.question_answering import QuestionAnsweringConfig
from pretrainx.objectives.sequence_classification import SequenceClassificationConfig
from pretrainx.objectives.sequence_regression import SequenceRegressionConfig
from pretrainx.objectives.siglip import SiglipConfig
from pretrainx.objectives.simclr import SimclrConfig
from pretrainx.objectives.simsiam import SimsiamConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.objectives.text_to_text import TextToTextConfig
from pretrainx.objectives.token_classification import TokenClassificationConfig
from pretrainx.objectives.vq_vae import VqVaeConfig
from pretrainx.optim.optimizer import OPTIMIZERS
from pretrainx.optim.schedules import SCHEDULES
from pretrainx.parallel.distributed import DistributedConfig
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.parallel.sharding import ShardingConfig
from pretrainx.training.alarm import AlarmConfig
from pretrainx.training.guard import GuardConfig
from pretrainx.training.local_sgd import LocalSgdConfig
from pretrainx.training.loop import LoopConfig
from pretrainx.training.profile import ProfileConfig
from pretrainx.training.tensorboard import WritersConfig
from pretrainx.training.watchdog import WatchdogConfig

# A new objective, model or data set is one file and one line here.
OF_TEXT = {
    "autoregressive": AutoregressiveConfig,
    "masked_lm": MaskedLmConfig,
    "span_corruption": SpanCorruptionConfig,
    "denoising": DenoisingConfig,
    "prefix_lm": PrefixLmConfig,
    "mixture_of_denoisers": MixtureOfDenoisersConfig,
}
OF_IMAGES = {
    "simclr": SimclrConfig,
    "moco": MocoConfig,
    "moco_v3": MocoV3Config,
    "byol": ByolConfig,
    "simsiam": SimsiamConfig,
    "dino": DinoConfig,
    "mae": MaeConfig,
    "beit": BeitConfig,
    "vq_vae": VqVaeConfig,
    "dvae": DvaeConfig,
    "classification": ClassificationConfig,
}
OF_PAIRS = {"clip": ClipConfig, "siglip": SiglipConfig, "coca": CocaConfig}
OF_LABELLED = {
    "sequence_classification": SequenceClassificationConfig,
    "sequence_regression": SequenceRegressionConfig,
    "token_classification": TokenClassificationConfig,
    "question_answering": QuestionAnsweringConfig,
    "text_to_text": TextToTextConfig,
}
OBJECTIVES = OF_TEXT | OF_IMAGES | OF_PAIRS | OF_LABELLED
MODELS = {
    "decoder": DecoderConfig,
    "encoder": EncoderConfig,
    "encoder_decoder": EncoderDecoderConfig,
    "vit": VitConfig,
    "resnet": ResNetConfig,
    "visual_tokenizer": VisualTokenizerConfig,
    "dual_encoder": DualEncoderConfig,
    "coca": CocaModelConfig,
}
DATA = {
    "text": TextConfig,
    "mixture": MixtureConfig,
    "images": ImageConfig,
    "pairs": PairConfig,
    "labelled": LabelledConfig,
}
# What data are of, in words, the sections that are such data, and the objectives that learn from them.
KINDS = (
    ("text", (TextConfig, MixtureConfig), OF_TEXT),
    ("pictures", (ImageConfig,), OF_IMAGES),
    ("pictures with captions", (PairConfig,), OF_PAIRS),
    ("labelled text", (LabelledConfig,), OF_LABELLED),
)


@dataclass(frozen=True)
class CheckpointConfig:
    """Attributes:
    every: steps between saves; the last step is always saved.
    keep: how many of the newest saves stay on disk.
    """

    every: int = field(default=1000, metadata={"min": 1})
    keep: int = field(default=2, metadata={"min": 1})


@dataclass(frozen=True)
class Rename:
    """Parameters of the other run whose whole path matches `pattern` are called `to` here; groups as in "backbone/\\1"."""

    pattern: str
    to: str


@dataclass(frozen=True)
class InitConfig:
    """How parameters of the run that `config.init_from` names are taken.

    Attributes:
      rename: the first rule that matches a path counts.
      skip: patterns of whole paths here; what they match starts anew.
      step: which of its checkpoints; -1 is the newest that is whole.
    """

    rename: tuple[Rename, ...] = ()
    skip: tuple[str, ...] = ()
    step: int = field(default=-1, metadata={"min": -1})

    def __post_init__(self):
        for key, pattern in [("rename", rule.pattern) for rule in self.rename] + [("skip", each) for each in self.skip]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"{pattern!r} is not a regular expression",
                    where=f"config.init.{key}",
                    why=str(error),
                    do="mend the pattern",
                ) from error


@dataclass(frozen=True)
class EmaConfig:
    """Averaged parameters, used by evaluation: ema = decay * ema + (1 - decay) * params. 0 keeps none."""

    decay: float = field(default=0.0, metadata={"min": 0, "max": 0.999999})


@dataclass(frozen=True)
class SampleConfig:
    """Text to look at, written to samples/ at each evaluation.

    Attributes:
      prompts: what causal decoders continue, greedily and drawn at `temperature`. No prompts, no samples.
      rows: in so many held-out rows the other models fill in what was hidden from them; 0: none.
    """

    prompts: tuple[str, ...] = ()
    rows: int = field(default=3, metadata={"min": 0})
    temperature: float = field(default=0.8, metadata={"above": 0})


@dataclass(frozen=True)
class EvalConfig:
    """Attributes:
    tokens: evaluate on the first so many held-out tokens; 0 on all. limit: of pictures, on the first so many.
    batch_size: rows of an evaluation batch; 0 takes the training batch's.
    trigram: also report an interpolated trigram model's loss on the same tokens, fitted once on the training split; for causal
      decoders only.
    samples: text to look at.
    representations: of pictures: nearest neighbours, probes, collapse, pictures to look at.
    image_text: of pictures with captions: retrieval, zero-shot classification, captions that are written.
    fisher, pruning, membership, transfer: of `pretrainx eval --evals=NAME` alone.
    """

    tokens: int = field(default=0, metadata={"min": 0})
    limit: int = field(default=0, metadata={"min": 0})
    batch_size: int = field(default=0, metadata={"min": 0})
    trigram: bool = False
    samples: SampleConfig = SampleConfig()
    representations: RepresentationConfig = RepresentationConfig()
    image_text: ImageTextConfig = ImageTextConfig()
    fisher: FisherConfig = FisherConfig()
    pruning: PruningConfig = PruningConfig()
    membership: MembershipConfig = MembershipConfig()
    transfer: TransferConfig = TransferConfig()


@dataclass(frozen=True)
class Recipe:
    """One run, resolved. Sections live beside the parts that they configure; this only gathers them."""

    train: LoopConfig
    seed: int = field(default=0, metadata={"min": 0, "max": 2**32 - 1})
    objective: Any = field(
        metadata={"table": OBJECTIVES, "default_name": "autoregressive"}, default=AutoregressiveConfig()
    )
    model: Any = field(metadata={"table": MODELS, "default_name": "decoder"}, default=DecoderConfig())
    data: Any = field(metadata={"table": DATA, "default_name": "text"}, default=TextConfig())
    init_from: str = ""
    init: InitConfig = InitConfig()
    adapt: Any = field(metadata={"table": METHODS, "default_name": "full"}, default=METHODS["full"]())
    preserve: Any = field(metadata={"table": PRESERVING, "default_name": "none"}, default=PRESERVING["none"]())
    optimizer: Any = field(metadata={"table": OPTIMIZERS, "default_name": "adamw"}, default=OPTIMIZERS["adamw"]())
    schedule: Any = field(metadata={"table": SCHEDULES, "default_name": "cosine"}, default=SCHEDULES["cosine"]())
    precision: Precision = Precision()
    ema: EmaConfig = EmaConfig()
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingConfig = ShardingConfig()
    local_sgd: LocalSgdConfig = LocalSgdConfig()
    distributed: DistributedConfig = DistributedConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: str = field(default="auto", metadata={"choices": ("auto", "never")})
    guard: GuardConfig = GuardConfig()
    alarm: AlarmConfig = AlarmConfig()
    evals: EvalConfig = EvalConfig()
    writers: WritersConfig = WritersConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    profile: ProfileConfig = ProfileConfig()

    def __post_init__(self):
        self.schedule.over(self.train.steps)
        kind, _, known = next(each for each in KINDS if isinstance(self.data, each[1]))
        if not isinstance(self.objective, tuple(known.values())):
            raise ConfigError(
                f"the data are {kind}, and the objective reads something else",
                where="config.objective.name",
                why=f"config.data is a {type(self.data).__name__}, config.objective a {type(self.objective).__name__}",
                do=f"choose one of {', '.join(known)}, or other data",
            )
        parts, tasks = len(getattr(self.data, "parts", ())), getattr(self.adapt, "tasks", 1)
        if tasks not in (1, parts):
            raise ConfigError(
                "each part of a mixture of texts has a prompt of its own",
                where="config.adapt.tasks",
                why=f"{tasks} prompts, and config.data.parts has {parts or 'none'}",
                do=f"--config.adapt.tasks={parts or 1}",
            )
        if self.precision.params == "float64" or self.precision.compute == "float64":
            import jax

            if not jax.config.jax_enable_x64:
                raise ConfigError(
                    "float64 is switched off in JAX",
                    where="config.precision",
                    why="a float64 of the configuration would be computed in float32",
                    do="set JAX_ENABLE_X64=1 in the environment",
                )


def parse(values: dict) -> Recipe:
    """A recipe from nested plain values; ConfigError lists everything that is wrong with them."""
    return strict.parse(Recipe, values)


def read_recipe(workdir: Path) -> Recipe:
    """The configuration that the run was last started with. ConfigError where there is none."""
    path = workdir / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "this is not the workdir of a run",
            where=str(path),
            why=str(error),
            do="name the directory that `pretrainx train` was given as --workdir",
        ) from error
    return parse(values)


def check_batch(recipe: Recipe, ways: int) -> int:
    """Rows per device and microbatch. ConfigError when the global batch does not divide over devices and microbatches.

    `ways` is over how many groups of devices rows are split.
    """
    rows, parts = recipe.train.batch_size, recipe.train.microbatches
    if rows % (ways * parts):
        unit = ways * parts
        near = max(unit, round(rows / unit) * unit)
        raise ConfigError(
            "the batch does not divide over the mesh",
            where="config.train.batch_size",
            why=f"{rows} rows over {ways} data x fsdp x expert x stage ways and {parts} microbatches",
            do=f"--config.train.batch_size={near}, or another config.mesh or config.train.microbatches",
        )
    evaluated = recipe.evals.batch_size
    if evaluated % ways:
        raise ConfigError(
            "the evaluation batch does not divide over the mesh",
            where="config.evals.batch_size",
            why=f"{evaluated} rows over {ways} data x fsdp x expert x stage ways",
            do=f"--config.evals.batch_size={math.ceil(evaluated / ways) * ways}",
        )
    return rows // (ways * parts)
