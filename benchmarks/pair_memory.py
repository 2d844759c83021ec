"""Memory of one training step of CLIP on 8 simulated devices, by how the pairs of the batch are scored.

    python benchmarks/pair_memory.py [--rows=4096,8192] [--micro=64]

Prints, for each form, the compiled step's temporaries on a device at each batch size, and their ratio: "rows" and "ring" are
the library's, "plain" is one product of all pictures with all captions, and two softmaxes of it. Encoders are tiny, and the
batch goes through them in so many microbatches that their activations are the same at each size: what grows is the loss.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import jax
import jax.numpy as jnp

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from pretrainx.core.images import Images  # noqa: E402
from pretrainx.core.pairs import Pairs  # noqa: E402
from pretrainx.core.schedule import WarmupCosine  # noqa: E402
from pretrainx.core.vocabulary import Vocabulary  # noqa: E402
from pretrainx.models.dual_encoder import DualEncoderConfig  # noqa: E402
from pretrainx.models.layers import Precision  # noqa: E402
from pretrainx.models.text_tower import TextTowerConfig  # noqa: E402
from pretrainx.models.vit import VitConfig  # noqa: E402
from pretrainx.objectives import cross_entropy  # noqa: E402
from pretrainx.objectives.clip import Clip, ClipConfig  # noqa: E402
from pretrainx.objectives.image_text import logits_of  # noqa: E402
from pretrainx.optim.optimizer import AdamWConfig, Optimizer  # noqa: E402
from pretrainx.parallel.mesh import MeshConfig, make_mesh  # noqa: E402
from pretrainx.parallel.rules import Rules  # noqa: E402
from pretrainx.training import state as states  # noqa: E402
from pretrainx.training.step import Options, make_train_step  # noqa: E402

MODEL = DualEncoderConfig(
    VitConfig(width=32, depth=1, heads=4, patch=8), TextTowerConfig(width=32, depth=1, heads=4, vocab_multiple=16), 32
)
ABOUT = Pairs(Images(16), Vocabulary(64, (("pad", 0), ("eos", 1), ("bos", 2))))


@dataclass(frozen=True)
class Plain(Clip):
    """All pairs at once."""

    def couple(self, params, extras, representations, observation, step):
        image, text = representations["image"], representations["text"]
        logits, own = logits_of(params)[0] * image @ text.T, jnp.arange(len(image))
        nll = (cross_entropy.token_nll(logits, own) + cross_entropy.token_nll(logits.T, own)) / 2
        return cross_entropy.outcome("contrastive", nll[:, None], observation.weights["contrastive"][:, None])


def objective(form: str) -> Clip:
    config = ClipConfig(form="rows" if form == "plain" else form, duplicates="negatives")
    built = config.build(MODEL, ABOUT, 8, 1, Precision())
    return Plain(**{name: getattr(built, name) for name in built.__dataclass_fields__}) if form == "plain" else built


def compiled(form: str, rows: int, micro: int):
    """The step at so many rows, `micro` of which go through the encoders of a device at once."""
    rules = Rules(make_mesh(MeshConfig(data=8), jax.devices()))
    made = objective(form)
    options = Options(rules, microbatches=rows // (8 * micro))
    found = states.layout(made, rows)
    optimizer = Optimizer(AdamWConfig(), WarmupCosine(1e-3, 10, 100), 1.0, found.params_axes)
    state = states.create(made, optimizer, options, found, rows)
    step = make_train_step(made, optimizer, options, state)
    spec = made.batch_spec(rows)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rules.rows(leaf.shape)), spec
    )
    return step.lower(state, batch).compile()


def temporaries(form: str, rows: int, micro: int) -> int:
    """Bytes on one device."""
    return compiled(form, rows, micro).memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="4096,8192")
    parser.add_argument("--micro", type=int, default=64, help="rows of a microbatch on a device")
    given = parser.parse_args()
    sizes = [int(size) for size in given.rows.split(",")]
    print(f"{'form':<8}" + "".join(f"{size:>12,}" for size in sizes) + f"{'ratio':>8}   MiB of temporaries on a device")
    for form in ("rows", "ring", "plain"):
        found = [temporaries(form, size, given.micro) for size in sizes]
        print(f"{form:<8}" + "".join(f"{size / 2**20:>12.1f}" for size in found) + f"{found[-1] / found[0]:>8.2f}")


if __name__ == "__main__":
    main()
