"""What families of models of pictures and captions have in common: their towers, what a directory says of them, their rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrainx.core.images import Images
from pretrainx.interop import pictures
from pretrainx.interop.family import plain_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Patches, Row, linear, norm
from pretrainx.models.coca import CocaConfig
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import padded
from pretrainx.models.stack import StackConfig
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig

# What older files repeat of a generator's habits for each tower; all of it idle.
GENERATION = """add_cross_attention bad_words_ids begin_suppress_tokens cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id is_decoder is_encoder_decoder length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict_in_generate sep_token_id suppress_tokens temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p use_bfloat16
    initializer_factor dropout""".split()
# Their name of an activation that has an older one.
TANH = "gelu_pytorch_tanh"
# What every tower there has, of either side.
COMMON = {"norm": "layer", "norm_first": True, "gated": False, "bias": True, "qk_norm": False}
# What image towers there have beside what each family adds.
PLAIN = {"key_bias": True, "layer_scale": 0.0, "mask_token": False, "pool_norm": False, "positions": "learned"}


@dataclass(frozen=True)
class PairModel:
    """What a directory says of a model of pictures and captions.

    Attributes:
      model: the section config.model; its text tower's `max_length` is the longest caption.
      images: the pictures that the network sees, and what they are normalised with.
      end: the id behind a caption, whose place the text tower reads; -1 where it reads another.
      pad: the id that captions are filled up with, where the text tower sees it; -1 where it does not.
    """

    model: DualEncoderConfig | CocaConfig
    images: Images
    end: int = -1
    pad: int = -1

    @property
    def max_length(self) -> int:
        return self.model.text.max_length

    @property
    def vocab_multiple(self) -> int:
        return self.model.text.vocab_multiple

    def with_text(self, **changes: Any) -> PairModel:
        """The same with other fields of the text tower."""
        text = dataclasses.replace(self.model.text, **changes)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, text=text))


def section(keys: Keys, side: str) -> Keys:
    """The keys of one tower. What older files call {side}_config_dict stands in the place of {side}_config."""
    name = f"{side}_config"
    values, older = keys.section(name), keys.section(f"{name}_dict")
    found = Keys(older or values, f"{keys.where}: {name}")
    found.idle(*GENERATION)
    return found


def vocab_size_of(values: dict[str, Any], default: int) -> int:
    """How many ids the token table of a config.json has."""
    section = values.get("text_config_dict") or values.get("text_config")
    found = section.get("vocab_size") if isinstance(section, dict) else None
    return found if isinstance(found, int) else default


def text_fields(keys: Keys, width: int, heads: int, length: int, activation: str, epsilon: float) -> dict[str, Any]:
    """Fields of TextTowerConfig that all these families have keys for, and what they are where keys are left out."""
    found = dict(
        width=keys.size("hidden_size", width),
        depth=keys.size("num_hidden_layers", 12),
        heads=keys.size("num_attention_heads", heads),
        mlp_width=keys.size("intermediate_size", 4 * width),
        max_length=keys.size("max_position_embeddings", length),
        norm_epsilon=keys.positive("layer_norm_eps", epsilon),
        activation=keys.activation("hidden_act", activation),
        initial_std=keys.initial_std(),
    )
    if found["width"] % found["heads"]:
        keys.refuse(f"num_attention_heads: {found['heads']} does not divide hidden_size {found['width']}")
    return found


def text_keys(text: TextTowerConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of a text tower."""
    return stack_keys(text) | {"vocab_size": vocab_size, "max_position_embeddings": max_length}


def image_keys(image: VitConfig, images: Images) -> dict[str, Any]:
    """The keys of an image tower."""
    return stack_keys(image) | {
        "image_size": images.size,
        "patch_size": image.patch,
        "num_channels": images.channels,
    }


def stack_keys(config: StackConfig) -> dict[str, Any]:
    """The keys of either tower's transformer."""
    names = ACTIVATIONS[config.activation]
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": TANH if TANH in names else names[0],
        "layer_norm_eps": config.norm_epsilon,
        "attention_dropout": 0.0,
        "initializer_range": config.initial_std,
    }


def differing(
    config: PairModel, whole: dict[str, Any], image: dict[str, Any], text: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what the family has)} of the habits that differ from these of the model and of its towers."""
    model = config.model
    found = {name: (getattr(model, name), value) for name, value in whole.items() if getattr(model, name) != value}
    if not isinstance(model.image, VitConfig):
        return found | {"image.name": (type(model.image).__name__.removesuffix("Config").lower(), "vit")}
    for side, tower, wanted in (("image", model.image, PLAIN | image), ("text", model.text, text)):
        habits = unlike(tower, COMMON | wanted) | plain_heads(tower)
        found |= {f"{side}.{name}": values for name, values in habits.items()}
    return found


def tokens(theirs: str, positions: str, config: PairModel, vocab_size: int, ids: int, rows: int) -> tuple[Row, ...]:
    """The tables of tokens and of so many positions, under these names."""
    width, known = (config.model.text.width,), (padded(ids, config.model.text.vocab_multiple),)
    return (
        Row(theirs, ("text/token/table",), known, width, vocab=vocab_size),
        Row(positions, ("text/position/table",), (rows,), width),
    )


def patches(theirs: str, config: PairModel) -> Patches:
    """The kernel that reads a picture's patches."""
    image, channels = config.model.image, config.images.channels
    pixels = (image.patch**2 * channels,)
    return Patches(theirs, ("image/patches/kernel",), pixels, (image.width,), side=image.patch, channels=channels)


def hugging_face(config: PairModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """The rows that CLIP and SigLIP have in common: both towers, but for what stands before and behind their blocks."""
    image, text = config.model.image, config.model.text
    front, seen = "text_model.embeddings.", "vision_model.embeddings."
    names = front + "token_embedding.weight", front + "position_embedding.weight"
    places = (image.grid(config.images.size) ** 2 + image.class_token,)
    return (
        *tokens(*names, config, vocab_size, ids, max_length),
        *blocks("text_model.encoder.layers.{}.", "text/layers", text),
        *norm("text_model.final_layer_norm", "text/final_norm", text.width),
        patches(seen + "patch_embedding.weight", config),
        Row(seen + "position_embedding.weight", ("image/position/table",), places, (image.width,)),
        *blocks("vision_model.encoder.layers.{}.", "image/layers", image),
        *norm("vision_model.post_layernorm", "image/final_norm", image.width),
    )


def blocks(theirs: str, ours: str, config: StackConfig) -> tuple[Row, ...]:
    """A stack of CLIP's or SigLIP's; `theirs` has {} for a layer's number."""
    width, heads, depth = (config.width,), (config.heads, config.head_size), config.depth
    dense = lambda name, place, *sizes: linear(theirs + name, f"{ours}/{place}", *sizes, depth)
    return (
        *norm(theirs + "layer_norm1", f"{ours}/attention_norm", config.width, depth),
        *dense("self_attn.q_proj", "attention/query", width, heads),
        *dense("self_attn.k_proj", "attention/key", width, heads),
        *dense("self_attn.v_proj", "attention/value", width, heads),
        *dense("self_attn.out_proj", "attention/out", heads, width),
        *norm(theirs + "layer_norm2", f"{ours}/mlp_norm", config.width, depth),
        *mlp(theirs + "mlp.fc1", theirs + "mlp.fc2", f"{ours}/mlp", config, depth),
    )


def mlp(up: str, down: str, ours: str, config: StackConfig, layers: int = 0) -> tuple[Row, ...]:
    """The two matrices of an MLP."""
    width, hidden = (config.width,), (config.mlp_size,)
    return (
        *linear(up, f"{ours}/up", width, hidden, layers),
        *linear(down, f"{ours}/down", hidden, width, layers),
    )


def fused(
    theirs: str, ours: str, inputs: int, heads: tuple[int, int], query: str = "query", layers: int = 0
) -> tuple[Row, ...]:
    """A torch.nn.MultiheadAttention that reads as many dimensions as it has: queries, keys and values in one matrix."""
    names = (query, "key", "value")
    leaves = lambda kind: tuple(f"{ours}/{name}/{kind}" for name in names)
    return (
        Row(f"{theirs}.in_proj_weight", leaves("kernel"), (inputs,), heads, True, layers=layers),
        Row(f"{theirs}.in_proj_bias", leaves("bias"), (), heads, layers=layers),
        *linear(f"{theirs}.out_proj", f"{ours}/out", heads, (heads[0] * heads[1],), layers),
    )


def beside(config: PairModel, kind: str, **more: Any) -> dict[str, dict[str, Any]]:
    """The file of an image processor of the class `kind`, with keys of its own."""
    return {name: values | more for name, values in pictures.beside(config, kind).items()}
