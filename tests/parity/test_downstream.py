"""Tasks on BERT against `transformers` from the same random weights: classes, numbers, tags, answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.observed import LENGTH, LENGTHS, ROWS, SPECIALS, rows, within
from parity.reference import VOCAB, apart, randomised
from pretrainx.core.labelled import Labelled
from pretrainx.core.records import Observation
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.interop import directory, tensors
from pretrainx.interop.directory import FAMILIES
from pretrainx.models.layers import Precision
from pretrainx.objectives.question_answering import QuestionAnsweringConfig
from pretrainx.objectives.sequence_classification import SequenceClassificationConfig
from pretrainx.objectives.sequence_regression import SequenceRegressionConfig
from pretrainx.objectives.token_classification import TokenClassificationConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

CLASSES = 5
REAL = within(LENGTH, LENGTHS)
TYPES = ((np.arange(LENGTH) > 5) & REAL).astype(np.int32)
INPUTS = {"tokens": rows(LENGTH, LENGTHS, 0), "types": TYPES}
VOCABULARY = Vocabulary(VOCAB, tuple(SPECIALS.items()))
LABELS = np.array([3, 0, 4])
TAGS = np.random.default_rng(5).integers(0, CLASSES, (ROWS, LENGTH)).astype(np.int32)
WORDS = (REAL & (np.random.default_rng(6).random((ROWS, LENGTH)) < 0.6)).astype(np.float32)
SPANS = np.array([[7, 9], [6, 6], [8, 10]], np.int32)
ONES = np.ones(ROWS, np.float32)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def entropy(logits, targets):
    import torch

    return torch.nn.functional.cross_entropy(logits, torch.tensor(np.asarray(targets), dtype=torch.long))


def where_words_begin(logits):
    import torch

    return entropy(logits[torch.tensor(WORDS > 0)], TAGS[WORDS > 0])


def spans(output):
    import torch

    # As the reference trains: padding counts among the tokens that an answer might begin at, unless it is masked.
    low = torch.tensor(~REAL)
    first, last = (each.masked_fill(low, -1e30) for each in (output.start_logits, output.end_logits))
    return (entropy(first, SPANS[:, 0]) + entropy(last, SPANS[:, 1])) / 2


def squared(logits):
    import torch

    return ((logits[:, 0] - torch.tensor(LABELS / 2)) ** 2).mean()


# {name: (their class, labels of its head, ours, what labels are, observed targets, {term: weights}, their loss, the head)}
TASKS = {
    "classes": (
        *("BertForSequenceClassification", CLASSES, SequenceClassificationConfig(), "class", LABELS, {"nll": ONES}),
        *(lambda found: entropy(found.logits, LABELS), "classifier"),
    ),
    "numbers": (
        *("BertForSequenceClassification", 1, SequenceRegressionConfig(), "number", LABELS / 2, {"mse": ONES}),
        *(lambda found: squared(found.logits), "classifier"),
    ),
    "tags": (
        *("BertForTokenClassification", CLASSES, TokenClassificationConfig(), "tags", {"tags": TAGS}, {"nll": WORDS}),
        *(lambda found: where_words_begin(found.logits), "classifier"),
    ),
    "answers": (
        *("BertForQuestionAnswering", 2, QuestionAnsweringConfig(), "span", {"span": SPANS}, {"nll": ONES}),
        *(spans, "qa_outputs"),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_logits_loss_and_every_gradient(tmp_path, name):
    import torch
    import transformers

    kind, count, config, target, targets, weights, loss_of, head = TASKS[name]
    sizes = {"vocab_size": VOCAB, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 44, "max_position_embeddings": 22, "type_vocab_size": 3, "num_labels": count}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = randomised(getattr(transformers, kind)(transformers.BertConfig(**sizes, **off)), "float64")
    given = {"input_ids": INPUTS["tokens"], "attention_mask": REAL, "token_type_ids": TYPES}
    found = model(**{key: torch.tensor(value, dtype=torch.long) for key, value in given.items()})
    loss = loss_of(found)
    loss.backward()
    wanted = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}

    # The model as `pretrainx import` reads it, the head as a task trains it.
    model.bert.save_pretrained(tmp_path)
    read = directory.read(tmp_path)
    layer = getattr(model, head)
    classes = {"kernel": layer.weight.detach().numpy().T} | (
        {"bias": layer.bias.detach().numpy()} if count != 2 else {}
    )
    pooled = hasattr(model.bert, "pooler") and model.bert.pooler is not None
    assert pooled == (name in ("classes", "numbers"))
    about = Labelled(VOCABULARY, target, tuple("abcde"), name == "answers")
    objective = config.build(read.config, about, (LENGTH, 0), Precision("float64", "float64"))
    params = jax.tree.map(jnp.asarray, read.params | {"task": {"classes": classes}})
    more = {"context": TYPES > 0} if name == "answers" else {}
    observation = Observation(INPUTS | more, targets, weights, np.ones(ROWS, bool))
    observation = jax.tree.map(jnp.asarray, observation)

    @jax.jit
    @jax.value_and_grad
    def ours(params):
        totals = objective.encode(params, {}, observation, None, 0, train=False).totals
        return sum(totals[term] / weights[term].sum() for term in totals)

    our_loss, tree = ours(params)
    gap = {"loss": abs(our_loss - loss.item()) / loss.item()}
    logits = np.asarray(objective.outputs(params, {}, observation.inputs, ("logits",))["logits"])
    if name == "answers":
        theirs = torch.stack([found.start_logits, found.end_logits], 2).detach().numpy() - layer.bias.detach().numpy()
        assert np.abs(wanted[f"{head}.bias"]).max() < 1e-12  # why our head has none
        gap["logits"] = apart(logits[REAL], theirs[REAL])
    else:
        theirs = found.logits.detach().numpy()
        gap["logits"] = apart(logits[REAL], theirs[REAL]) if name == "tags" else apart(logits, theirs)
    gradient = tree.pop("task")["classes"]
    gap[f"{head}.weight"] = apart(gradient["kernel"].T, wanted.pop(f"{head}.weight"))
    bias = wanted.pop(f"{head}.bias")
    if name != "answers":
        gap[f"{head}.bias"] = apart(gradient["bias"], bias)
    table = FAMILIES["bert"].table(read.config, VOCAB, VOCAB, read.config.max_length)
    stored = {
        FAMILIES["bert"].stored(read.config, key): array
        for key, array in tensors.write(table, tree, "gradients").items()
    }
    named = {f"bert.{key.removeprefix('bert.')}": array for key, array in stored.items()}
    assert named.keys() == wanted.keys()
    # What moves all tokens' scores of an answer alike has no gradient but rounding: in units of its neighbour's.
    last = "layer.2.output.LayerNorm."
    beside = lambda key: key.replace(f"{last}bias", f"{last}weight") if name == "answers" else key
    unit = lambda key: np.abs(wanted[beside(key).replace(".key.", ".query.")]).max()
    gap |= {key: np.abs(named[key] - wanted[key]).max() / unit(key) for key in wanted}
    worst = max(gap, key=gap.get)
    print(f"{name}: {len(wanted)} gradients of the model; logits {gap['logits']:.1e}, loss {gap['loss']:.1e}, ", end="")
    print(f"worst {worst} {gap[worst]:.1e}")
    assert gap[worst] < 1e-9, {key: error for key, error in gap.items() if error >= 1e-9}
