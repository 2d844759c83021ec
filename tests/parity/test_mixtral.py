"""A mixture of experts against `transformers.MixtralForCausalLM` from the same random weights.

The reference keeps norms, rotary angles and the router's softmax in float32 whatever its dtype: float64 agrees to 1e-5 only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.reference import IDS, LENGTH, VOCAB, apart, randomised, theirs
from pretrainx.core import paths
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]
WIDTH, DEPTH, HEADS, SHARED, HEAD, HIDDEN, EXPERTS, CHOSEN = 20, 3, 6, 2, 4, 27, 5, 2
FORMS = {"capacity": dict(capacity=EXPERTS / CHOSEN), "ragged": dict(dispatch="ragged")}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(depth=DEPTH):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        num_key_value_heads=SHARED,
        head_dim=HEAD,
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        max_position_embeddings=37,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        rms_norm_eps=1e-5,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
    )
    config._attn_implementation = config._experts_implementation = "eager"
    return randomised(MixtralForCausalLM(config), "float64")


def ours(depth=DEPTH, **experts):
    config = DecoderConfig(
        WIDTH,
        depth,
        HEADS,
        SHARED,
        HEAD,
        HIDDEN,
        37,
        rotary_base=5e5,
        norm="rms",
        activation="silu",
        gated=True,
        bias=False,
        tied=False,
        vocab_multiple=1,
        positions="rotary",
        experts=ExpertsConfig(EXPERTS, CHOSEN, **experts),
    )
    vocabulary = Vocabulary(VOCAB, (("pad", 0), ("eos", 1)))
    return AutoregressiveConfig().build(config, vocabulary, LENGTH, Precision("float64", "float64"))


def in_our_form(tensors, depth=DEPTH):
    """{path: array} of the reference's tensors, or of its gradients."""
    block = lambda name: np.stack([tensors[f"model.layers.{layer}.{name}"] for layer in range(depth)])
    turned = lambda array: np.swapaxes(array, -1, -2)
    attention = lambda name, count: turned(block(f"self_attn.{name}_proj.weight")).reshape(depth, WIDTH, count, HEAD)
    gate, up = np.split(block("mlp.experts.gate_up_proj"), 2, axis=2)
    return {
        "token/table": tensors["model.embed_tokens.weight"],
        "layers/attention_norm/scale": block("input_layernorm.weight"),
        "layers/attention/query/kernel": attention("q", HEADS),
        "layers/attention/key/kernel": attention("k", SHARED),
        "layers/attention/value/kernel": attention("v", SHARED),
        "layers/attention/out/kernel": turned(block("self_attn.o_proj.weight")).reshape(depth, HEADS, HEAD, WIDTH),
        "layers/mlp_norm/scale": block("post_attention_layernorm.weight"),
        "layers/mlp/router/kernel": turned(block("mlp.gate.weight")),
        "layers/mlp/gate/kernel": turned(gate),
        "layers/mlp/up/kernel": turned(up),
        "layers/mlp/down/kernel": turned(block("mlp.experts.down_proj")),
        "final_norm/scale": tensors["model.norm.weight"],
        "unembed/kernel": turned(tensors["lm_head.weight"]),
    }


def weights_of(model, depth=DEPTH):
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return paths.from_leaves([(path, jnp.asarray(leaf)) for path, leaf in in_our_form(tensors, depth).items()])


def outcome_of(objective, params, rows):
    batch = {"tokens": jnp.asarray(rows), "valid": jnp.ones(len(rows), bool)}
    keys = objective.row_keys(jax.random.key(0), batch)
    observation = objective.observe_rows(keys, batch, 0)
    return objective.encode(params, {}, observation, keys, 0, train=True), observation


@pytest.mark.parametrize("form", FORMS)
def test_logits_loss_and_every_gradient_of_a_mixture(form):
    model, objective = build(), ours(**FORMS[form])
    logits, loss, gradients = theirs(model)
    params = weights_of(model)

    def nll(params):
        outcome, observation = outcome_of(objective, params, IDS)
        return outcome.totals["nll"] / observation.weights["nll"].sum(), outcome.metrics["dropped"].total

    (our_loss, dropped), our_gradients = jax.jit(jax.value_and_grad(nll, has_aux=True))(params)
    assert dropped == 0 and abs(our_loss - loss) / loss < 1e-5
    found = objective.outputs(params, {}, {"tokens": jnp.asarray(IDS[:, :-1])}, ("logits",))["logits"]
    assert apart(found, logits) < 1e-5
    wanted = in_our_form(gradients)
    assert wanted.keys() == {path for path, _ in paths.leaves(our_gradients)}
    for path, leaf in paths.leaves(our_gradients):
        assert np.abs(wanted[path]).max() > 1e-6 and apart(leaf, wanted[path]) < 1e-5, path


def test_the_balance_loss_of_one_row_and_block():
    """The reference adds the shares of both choices: K times ours. Of several rows and blocks it mixes the statistics."""
    import torch

    model, objective = build(depth=1), ours(depth=1, **FORMS["ragged"])
    tokens = torch.tensor(IDS[:1, :-1], dtype=torch.long)
    wanted = model(tokens, output_router_logits=True).aux_loss.item()
    outcome, _ = outcome_of(objective, weights_of(model, 1), IDS[:1])
    np.testing.assert_allclose(CHOSEN * outcome.totals["balance"], wanted, rtol=1e-5)
