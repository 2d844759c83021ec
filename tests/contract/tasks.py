"""The tasks on labelled text under contract, at rows of 12 tokens."""

import numpy as np

from pretrainx.core.labelled import Labelled
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.question_answering import QuestionAnsweringConfig
from pretrainx.objectives.sequence_classification import SequenceClassificationConfig
from pretrainx.objectives.sequence_regression import SequenceRegressionConfig
from pretrainx.objectives.text_to_text import TextToTextConfig
from pretrainx.objectives.token_classification import TokenClassificationConfig

WIDTHS = 12, 6
FIRST, LAST = 4, 50  # ids of text
VOCABULARY = Vocabulary(LAST, (("pad", 0), ("eos", 1), ("cls", 2), ("sep", 3)))
SIZES = {"width": 32, "depth": 2, "heads": 4, "vocab_multiple": 16, "dropout": 0.1}
BERT = EncoderConfig(**SIZES, remat="full", types=2, pooler=True)
BARE = EncoderConfig(**SIZES, norm_first=True, positions="rotary")
GPT = DecoderConfig(**SIZES, tied=False)
T5 = EncoderDecoderConfig(**{**SIZES, "depth": 1}, positions="relative", buckets=8, norm_first=True)
CLASSES = ("a", "b", "c")
# What `tests/contract/cases.py` tells labelled rows by.
LABELS = {"label", "tags", "span", "target"}
# Tasks of which another has the same form; only CI runs them.
ONLY_CI = (
    "sequence_classification, decoder",
    "sequence_regression",
    "token_classification",
    "question_answering",
    "text_to_text",
)


def built(config, model, target, pairs=False):
    classes = CLASSES if target in ("class", "tags") else ()
    about = Labelled(VOCABULARY, target, classes, pairs, 1.5, 2.0)
    return config.build(model, about, WIDTHS, Precision("float64", "float64"))


CASES = {
    "sequence_classification": lambda: built(SequenceClassificationConfig(label_smoothing=0.1), BERT, "class", True),
    "sequence_classification, decoder": lambda: built(SequenceClassificationConfig("dense"), GPT, "class"),
    "sequence_regression": lambda: built(SequenceRegressionConfig(pool="mean"), BARE, "number"),
    "token_classification": lambda: built(TokenClassificationConfig(), BERT, "tags"),
    "question_answering": lambda: built(QuestionAnsweringConfig(longest=3), BERT, "span", True),
    "text_to_text": lambda: built(TextToTextConfig(), T5, "text"),
}


def fields(spec, rng):
    """The fields of a batch of labelled rows beside "valid": texts of uneven lengths, the second from the middle on."""
    rows, width = spec["tokens"].shape
    lengths, places = rng.integers(width // 2 + 2, width + 1, (rows, 1)), np.arange(width)
    real = places < lengths
    tokens = np.where(real, rng.integers(FIRST, LAST, (rows, width)), 0)
    second = real & (places >= width // 2)
    first = rng.integers(width // 2, lengths[:, 0] - 1)
    made = {
        "tokens": tokens.astype(np.int32),
        "types": second.astype(np.int32),
        "context": second,
        "tags": np.where(real & (rng.random((rows, width)) < 0.6), rng.integers(0, 3, (rows, width)), -1).astype(
            np.int32
        ),
        "span": np.stack([first, np.minimum(first + rng.integers(0, 3, rows), lengths[:, 0] - 1)], 1).astype(np.int32),
        "length": lengths[:, 0].astype(np.int32),
    }
    if "label" in spec:
        numbers = rng.integers(0, 3, rows) if spec["label"].dtype == np.int32 else rng.standard_normal(rows)
        made["label"] = numbers.astype(spec["label"].dtype)
    if "target" in spec:
        count, width = spec["target"].shape
        sizes = rng.integers(1, width + 1, count)
        target = np.where(np.arange(width) < sizes[:, None], rng.integers(FIRST, LAST, (count, width)), 0)
        made |= {"target": target.astype(np.int32), "target_length": sizes.astype(np.int32)}
    return {name: made[name] for name in spec if name != "valid"}
