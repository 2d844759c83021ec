"""LoRA, rsLoRA, DoRA and prompt tuning against `peft` from the same random weights, in float64: logits, loss, gradients of what
is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.reference import IDS, LENGTH, VOCAB, Ours, randomised
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prompt import PromptConfig
from pretrainx.core import axes, paths
from pretrainx.training import state as states

pytestmark = [pytest.mark.usefixtures("peft_reference"), pytest.mark.xdist_group("parity")]
RANK, ALPHA, PROMPT, HEADS, SIZE, DEPTH = 4, 6, 5, 3, 5, 2
WIDTH = HEADS * SIZE
TOLERANCE = 1e-5  # LLaMA's norms are of float32 in the reference
LINEARS = {
    "self_attn.q_proj": "attention/query",
    "self_attn.v_proj": "attention/value",
    "self_attn.o_proj": "attention/out",
    "mlp.up_proj": "mlp/up",
    "mlp.down_proj": "mlp/down",
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH + 3,
        intermediate_size=26,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=6,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
    )
    return randomised(LlamaForCausalLM(config), "float64")


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": VOCAB, "n_positions": 22, "n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes, **off)), "float64")


def theirs(model):
    """(logits of the tokens, loss, {name: gradient of what is trained})"""
    import torch

    tokens = torch.tensor(IDS, dtype=torch.long)
    logits = model(input_ids=tokens[:, :-1]).logits[:, -LENGTH:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
    return logits.detach().numpy(), loss.item(), found


def ours(objective, params):
    """(logits, loss, gradients of what is trained)"""
    trained, frozen = paths.split(params, objective.trains)

    def loss(trained):
        whole = paths.merge(frozen, trained)
        batch = {"tokens": jnp.asarray(IDS), "valid": jnp.ones(len(IDS), bool)}
        keys = objective.row_keys(jax.random.key(0), batch)
        seen = objective.observe_rows(keys, batch, 0)
        outcome = objective.encode(whole, {}, seen, keys, 0, train=True)
        return outcome.totals["nll"] / seen.weights["nll"].sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(trained)
    read = jax.jit(lambda params: objective.outputs(params, {}, {"tokens": jnp.asarray(IDS[:, :-1])}, ("logits",)))
    return np.asarray(read(params)["logits"]), float(value), gradients


def close(found, wanted, where="", tolerance=TOLERANCE):
    """By the largest of the wanted numbers."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max(), where


def laid(values, shapes, sides):
    """peft's tensors, or their gradients, as {path: leaf}."""
    found = {}
    for name, place in LINEARS.items():
        for side, kind in sides.items():
            path = f"layers/{place}/{side}"
            each = [values[f"base_model.model.model.layers.{n}.{name}.{kind}.default.weight"] for n in range(DEPTH)]
            found[path] = np.stack([(one.T if one.ndim == 2 else one).reshape(shapes[path][1:]) for one in each])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs_too", "mine"),
    [({}, {}), ({"use_rslora": True}, {"rslora": True}), ({"use_dora": True}, {"dora": True})],
    ids=["lora", "rslora", "dora"],
)
def test_lora(theirs_too, mine, tmp_path):
    """Every kernel of the blocks but the keys' and the gate's; DoRA's magnitudes start from the same kernels."""
    import torch
    from peft import LoraConfig as Theirs
    from peft import get_peft_model

    model = llama()
    base = Ours(model, tmp_path, "float64")
    names = [name.split(".")[1] for name in LINEARS]
    asked = Theirs(r=RANK, lora_alpha=ALPHA, target_modules=names, task_type="CAUSAL_LM", **theirs_too)
    wrapped = get_peft_model(model, asked).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    wanted_logits, wanted_loss, gradients = theirs(wrapped.eval())

    config = LoraConfig(RANK, ALPHA, targets="layers/(attention/(query|value|out)|mlp/(up|down))", **mine)
    objective, key = config.wrap(base.objective), jax.random.key(0)
    batch = states.example_batch(objective, 1)
    known = dict(paths.leaves(base.params))
    restored = paths.map_leaves(
        lambda path, box: box.replace_boxed(known[path]) if path in known else box,
        jax.jit(lambda key: objective.init(key, batch))(key),
    )
    started = dict(paths.leaves(axes.unbox(objective.start(key, restored, batch)[0])))
    shapes = {path: leaf.shape for path, leaf in started.items()}
    sides = {"lora_a": "lora_A", "lora_b": "lora_B"}
    sides |= {"lora_magnitude": "lora_magnitude_vector"} if "dora" in mine else {}
    given = laid({name: one.detach().numpy() for name, one in wrapped.named_parameters()}, shapes, sides)
    for path in given:
        if path.endswith("magnitude"):
            close(started[path], given[path])
    logits, loss, found = ours(objective, paths.merge(base.params, paths.from_leaves(given.items())))
    close(logits, wanted_logits)
    assert abs(loss - wanted_loss) < 1e-6 * wanted_loss
    wanted = laid(gradients, shapes, sides)
    assert set(wanted) == {path for path, _ in paths.leaves(found)}
    for path, gradient in paths.leaves(found):
        assert np.abs(wanted[path]).max() > 1e-4, path
        close(gradient, wanted[path], path)


@pytest.mark.slow
def test_prompt(tmp_path):
    """Rows before the tokens of GPT-2, which stand p positions further; the loss is of the tokens."""
    import torch
    from peft import PromptTuningConfig, get_peft_model

    model = gpt2()
    base = Ours(model, tmp_path, "float64")
    wrapped = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPT)).double()
    rows = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    wanted_logits, wanted_loss, gradients = theirs(wrapped.eval())
    params = base.params | {"prompt": jnp.asarray(rows.detach().numpy())}
    logits, loss, found = ours(PromptConfig(length=PROMPT).wrap(base.objective), params)
    close(logits, wanted_logits, tolerance=1e-12)
    assert abs(loss - wanted_loss) < 1e-12 * wanted_loss
    (wanted,) = gradients.values()
    assert np.abs(wanted).max() > 1e-4 and set(found) == {"prompt"}
    close(found["prompt"], wanted, tolerance=1e-11)
