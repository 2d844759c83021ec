"""Faults of masked language modelling and of the scores that objectives of text share."""

from mutants.record import Mutant

MASKING, MASKED_LM, CROSS_ENTROPY = (
    f"pretrainx/objectives/{name}.py" for name in ("masking", "masked_lm", "cross_entropy")
)
TEST_MASKING, TEST_MASKED_LM, TEST_CROSS_ENTROPY = (
    f"tests/objectives/test_{name}.py::test_" for name in ("masking", "masked_lm", "cross_entropy")
)

OBJECTIVES = [
    Mutant(
        "specials",
        "special tokens and marks are hidden too",
        MASKED_LM,
        "candidates = real & ~jnp.isin(tokens, jnp.asarray(never, jnp.int32))",
        "candidates = real",
        TEST_MASKED_LM + "what_is_hidden[bernoulli]",
    ),
    Mutant(
        "word budget",
        "words are drawn until the budget is exceeded",
        MASKING,
        "(jnp.cumsum(jnp.where(fitting, sizes, 0)) <= left)",
        "(jnp.cumsum(jnp.where(fitting, sizes, 0)) - sizes < left)",
        TEST_MASKING + "words_are_taken_as_one_by_one",
    ),
    Mutant(
        "word ends",
        "a word goes on behind a special token",
        MASKING,
        "jnp.cumsum(begins | alone, dtype=jnp.int32) - 1",
        "jnp.cumsum(begins.at[0].set(True), dtype=jnp.int32) - 1",
        TEST_MASKING + "words",
    ),
    Mutant(
        "80/10/10",
        "a tenth of what is not masked is random, not a tenth of all",
        MASKING,
        "jnp.where(chance < mask_prob + random_prob,",
        "jnp.where(chance < mask_prob + (1 - mask_prob) * random_prob,",
        TEST_MASKING + "what_stands_in_the_place",
    ),
    Mutant(
        "random ids",
        "random ids hit the ids that are left out",
        MASKING,
        'found, side="right")',
        'found, side="left")',
        TEST_MASKING + "random_ids_are_uniform_over_the_ordinary[never3]",
    ),
    Mutant(
        "gathered text",
        "gathered logits are scored against the first tokens of the row",
        MASKED_LM,
        "targets = jnp.take_along_axis(targets, positions, 1)",
        "targets = targets[:, :count]",
        TEST_MASKED_LM + "gathered_is_dense[bernoulli]",
    ),
    Mutant(
        "attended pad",
        "padding is attended",
        MASKED_LM,
        'return run("blocks", x, keys, positions, self._segments(inputs))',
        'return run("blocks", x, keys, positions, None)',
        TEST_MASKED_LM + "padding_is_not_attended[bernoulli]",
    ),
    Mutant(
        "unlimited",
        "tokens above the limit have weight",
        MASKED_LM,
        "masking.first(selected, most).astype",
        "selected.astype",
        TEST_MASKED_LM + "predictions_are_limited",
    ),
    Mutant(
        "other sentence",
        "the label of the second sentence is turned round",
        MASKED_LM,
        "jnp.where(label == OTHER,",
        "jnp.where(label != OTHER,",
        TEST_MASKED_LM + "two_sentences",
    ),
    Mutant(
        "closing mark",
        "a document's own end is followed by the closing mark",
        MASKED_LM,
        "end}, closing) if config.special_tokens else end",
        "end}, closing) if False else end",
        TEST_MASKED_LM + "frames_of_roberta",
    ),
    Mutant(
        "idle hits",
        "accuracy over all places, weighted or not",
        CROSS_ENTROPY,
        "return Mean((weights * hits).sum(dtype=float), weights.sum(dtype=float))",
        "return Mean(hits.sum(dtype=float), jnp.ones_like(weights).sum(dtype=float))",
        TEST_CROSS_ENTROPY + "hits_and_accuracy[5]",
    ),
]
