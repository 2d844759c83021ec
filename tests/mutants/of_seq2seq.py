"""Faults of span corruption, denoising and prefix language models."""

from mutants.record import Mutant

SPANS, TEXT_NOISE, SEQ2SEQ, SPAN_CORRUPTION, DENOISING, PREFIX_LM = (
    f"pretrainx/objectives/{name}.py"
    for name in ("spans", "text_noise", "seq2seq", "span_corruption", "denoising", "prefix_lm")
)
TEST_SPANS, TEST_NOISE = "tests/objectives/test_spans.py::test_", "tests/objectives/test_text_noise.py::test_"
TEST_SEQ2SEQ, TEST_PREFIX = "tests/objectives/test_seq2seq.py::test_", "tests/objectives/test_prefix_lm.py::test_"

PREFIXED, TEST_PREFIXED = "pretrainx/models/prefixed_decoder.py", "tests/models/test_prefixed_decoder.py::test_"

SPANS_AND_NOISE = [
    Mutant(
        "half-up",
        "hidden tokens counted in binary fractions",
        SPANS,
        "round(length * Fraction(str(density)))",
        "int(length * density + 0.5)",
        TEST_SPANS + "numbers_are_exact",
    ),
    Mutant(
        "one-sentinel",
        "every span has the same sentinel",
        SPANS,
        "marks[passed - 1]",
        "marks[0]",
        TEST_SPANS + "shorter_rows",
    ),
    Mutant(
        "cut-points",
        "lengths of spans are not all equally likely",
        SPANS,
        "cuts = shuffled(key, total - 1, largest - 1)[: most - 1] + 1",
        "cuts = shuffled(key, total - 2, largest - 1)[: most - 1] + 1",
        TEST_SPANS + "all_compositions_are_equally_likely",
    ),
    Mutant(
        "end-twice",
        "a document's end token is followed by another",
        SEQ2SEQ,
        "return length - ((length < tokens",
        "return length - 0 * ((length < tokens",
        TEST_SEQ2SEQ + "an_end_of_the_text_is_not_doubled",
    ),
    Mutant(
        "end-alone",
        "a row that holds nothing but an end teaches to write one",
        SEQ2SEQ,
        'some = text_length(example, self.vocabulary.special("eos")) > 0',
        'some = example["length"] > 0',
        TEST_SEQ2SEQ + "an_end_alone_teaches_nothing[span_corruption]",
    ),
    Mutant(
        "no-shift",
        "the decoder reads the token that it is to predict",
        SEQ2SEQ,
        "jnp.concatenate([jnp.full(1, self.begin, jnp.int32), pair.targets[:-1]])",
        "pair.targets",
        TEST_SEQ2SEQ + "observations",
    ),
    Mutant(
        "source-pad",
        "padding of the source is read",
        SEQ2SEQ,
        "segments = real.astype(jnp.int32)",
        "segments = jnp.ones_like(source)",
        TEST_SEQ2SEQ + "padding_changes_nothing",
    ),
    Mutant(
        "span-end",
        "the last span counts the end token",
        SPAN_CORRUPTION,
        "inside = real & follows & ~opens",
        "inside = real & ~opens",
        TEST_SEQ2SEQ + "span_accuracy",
    ),
    Mutant(
        "covered",
        "a span that begins inside another keeps its mask",
        TEXT_NOISE,
        "begins = (at > 0) & ~covered",
        "begins = at > 0",
        TEST_NOISE + "infilling_by_brute_force",
    ),
    Mutant(
        "infill-budget",
        "the last span is not trimmed to the budget",
        TEXT_NOISE,
        "jnp.minimum(drawn, allowed - before)",
        "drawn",
        TEST_NOISE + "infilling_by_brute_force",
    ),
    Mutant(
        "insert-room",
        "masks are put in where a row has no room",
        TEXT_NOISE,
        "count = jnp.minimum(count, size - left)",
        "count = count + 0",
        TEST_NOISE + "without_length_there_are_only_insertions",
    ),
    Mutant(
        "start-eos",
        "BART's decoder begins with padding",
        DENOISING,
        'return self.vocabulary.special("eos")',
        'return self.vocabulary.special("pad")',
        TEST_SEQ2SEQ + "observations",
    ),
    Mutant(
        "prefix-loss",
        "tokens of the prefix are predicted though they were seen",
        PREFIX_LM,
        "after = (place >= prefix) & ",
        "after = ",
        TEST_PREFIX + "decoder_rows",
    ),
    Mutant(
        "prefix-mask",
        "the prefix is read causally",
        PREFIX_LM,
        'inputs = inputs | {"seen": jnp.arange(inputs["tokens"].shape[1]) < inputs["prefix"][:, None]}',
        "pass",
        TEST_PREFIX + "who_sees_whom",
    ),
    Mutant(
        "prompt",
        "a prompt is read causally by a prefix language model",
        PREFIX_LM,
        "jnp.arange(cache.key.shape[2]) < tokens.shape[1]",
        "jnp.arange(cache.key.shape[2]) < added",
        TEST_PREFIX + "a_prompt_is_the_prefix",
    ),
    Mutant(
        "behind padding",
        "a decoder's targets stand behind the padding of their source",
        PREFIXED,
        "return segments.sum(1, dtype=jnp.int32)[:, None] + numbers",
        "return 0 * segments.sum(1, dtype=jnp.int32)[:, None] + segments.shape[1] + numbers",
        TEST_PREFIXED + "equal_to_the_rows_without_padding",
    ),
    Mutant(
        "source causal",
        "a decoder reads its source causally",
        PREFIXED,
        "(jnp.concatenate([source_segments, each], 1) for each in (read, 0 * read))",
        "(jnp.concatenate([s, each], 1) for s, each in ((source_segments, read), (0 * source_segments, 0 * read)))",
        TEST_PREFIXED + "equal_to_the_rows_without_padding",
    ),
    Mutant(
        "own past lost",
        "what a decoder writes does not see what it wrote before",
        PREFIXED,
        "(0, places - width)], constant_values=1)",
        "(0, places - width)])",
        TEST_PREFIXED + "decoding_with_a_cache_is_the_whole_row",
    ),
    Mutant(
        "one dropout",
        "source and targets of a decoder lose the same entries",
        PREFIXED,
        ", part=1)",
        ")",
        TEST_PREFIXED + "source_and_targets_lose_other_entries",
    ),
]
