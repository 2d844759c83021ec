"""Faults of evaluations: what is scored, with which masks, against which baseline."""

from mutants.record import Mutant

CHOICES, LIKELIHOOD, PSEUDO, FILL_IN, BASELINE, NGRAM, CONTINUATION = (
    f"pretrainx/evals/{name}.py"
    for name in ("choices", "likelihood", "pseudo_perplexity", "fill_in", "baseline", "ngram", "continuation")
)
TEST_CHOICES, TEST_FILL_IN = "tests/evals/test_choices.py::test_", "tests/evals/test_fill_in.py::test_"

EVALS = [
    Mutant(
        "choice border",
        "the prompt's last token is scored with the choice",
        LIKELIHOOD,
        "last = [(len(rows[index]) - 1 - sizes[index], len(rows[index]) - 1) for index in part]",
        "last = [(len(rows[index]) - 2 - sizes[index], len(rows[index]) - 1) for index in part]",
        TEST_CHOICES + "log_probabilities_are_sums_by_hand[autoregressive]",
    ),
    Mutant(
        "choice bytes",
        "a choice is divided by its characters and blank, not by its bytes",
        CHOICES,
        "max(len(choice.encode()), 1)",
        "len(choice) + 1",
        TEST_CHOICES + "the_border_is_where_the_prompt_ends",
    ),
    Mutant(
        "self-demonstration",
        "a question is demonstrated to itself",
        CHOICES,
        "if pool or index != number]",
        "if True]",
        TEST_CHOICES + "demonstrations",
    ),
    Mutant(
        "pmi",
        "the neutral prompt's log-probability is added",
        CHOICES,
        '"pmi": log_probability - neutral,',
        '"pmi": log_probability + neutral,',
        TEST_CHOICES + "normalisations",
    ),
    Mutant(
        "all hidden",
        "pseudo-likelihood hides what follows a token too",
        PSEUDO,
        "== places[:, None]",
        ">= places[:, None]",
        "tests/evals/test_pseudo_perplexity.py::test_each_token_is_hidden_alone",
    ),
    Mutant(
        "other masks",
        "the baseline fills in other masks than held-out loss has",
        FILL_IN,
        "key = random.stream(seed, random.EVALUATE, index)",
        "key = random.stream(seed, random.EVALUATE, index + 1)",
        TEST_FILL_IN + "the_baseline_fills_in_the_same_masks",
    ),
    Mutant(
        "end as text",
        "the end of a target is a token of its last span",
        BASELINE,
        "ends[-1] = True",
        "ends[-1] = False",
        TEST_FILL_IN + "the_baseline_fills_in_spans",
    ),
    Mutant(
        "one side",
        "the trigram fill-in forgets the second word after",
        NGRAM,
        "result = result * model._enclosing(x, y)",
        "result = result * 1.0",
        "tests/evals/test_ngram.py::test_filling_in_weighs_every_word_by_three_factors",
    ),
    Mutant(
        "no source",
        "rows are written for each other's sources",
        CONTINUATION,
        "cache = objective.cache(params, extras, *tokens.shape, source)",
        "cache = objective.cache(params, extras, *tokens.shape, jax.tree.map(lambda x: x[::-1], source))",
        TEST_FILL_IN + "generation_from_a_source_is_recomputed",
    ),
    Mutant(
        "shortest prefix",
        "how much of a prompt is read both ways depends on the shortest one beside it",
        CONTINUATION,
        "    if reads_both_ways(objective):",
        "    if False:",
        "tests/evals/test_continuation.py::test_a_prefix_lm_reads_the_whole_prompt_both_ways",
    ),
]
