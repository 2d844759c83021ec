"""Faults of evaluations: what is scored, with which masks, against which baseline."""

from mutants.record import Mutant

CHOICES, LIKELIHOOD, PSEUDO, FILL_IN, BASELINE, NGRAM, CONTINUATION = (
    f"pretrainx/evals/{name}.py"
    for name in ("choices", "likelihood", "pseudo_perplexity", "fill_in", "baseline", "ngram", "continuation")
)
FEATURES, KNN, PROBE, COLLAPSE, PICTURES, REPRESENTATIONS = (
    f"pretrainx/evals/{name}.py"
    for name in ("features", "knn", "linear_probe", "collapse", "pictures", "representations")
)
TEST_PROBE = "tests/evals/test_linear_probe.py::test_"
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
    Mutant(
        "crops by batch",
        "the crop of a picture depends on its place in a batch",
        FEATURES,
        "(first + jnp.arange(len(images)))",
        "(jnp.arange(len(images)))",
        "tests/evals/test_features.py::test_crops_are_of_the_key_and_the_row",
    ),
    Mutant(
        "plain votes",
        "neighbours vote without a temperature",
        KNN,
        "np.exp((cosines - cosines[:, :1]) / temperature)",
        "np.exp(cosines - cosines[:, :1])",
        "tests/evals/test_knn.py::test_the_temperature_weighs_near_against_many",
    ),
    Mutant(
        "tuned on what was fitted",
        "C is chosen on rows that were fitted too",
        PROBE,
        "rest = np.setdiff1d(np.arange(len(labels)), fifth)",
        "rest = np.arange(len(labels))",
        TEST_PROBE + "the_strength_is_chosen_on_rows_that_were_not_fitted",
    ),
    Mutant(
        "probe rate",
        "the probe's rate does not follow the epoch",
        PROBE,
        "rate = lambda count: self.rate_at(count / steps)",
        "rate = lambda count: self.rate_at(0.0 * count + self.epochs / 2)",
        TEST_PROBE + "trained_as_the_protocol_says[ssl]",
    ),
    Mutant(
        "centred rank",
        "RankMe is of centred rows",
        COLLAPSE,
        "np.linalg.svd(np.asarray(z, np.float64), compute_uv=False)",
        "np.linalg.svd(np.asarray(z, np.float64) - np.mean(z, 0), compute_uv=False)",
        "tests/evals/test_collapse.py::test_ranks_of_known_spectra",
    ),
    Mutant(
        "itself",
        "uniformity counts a row and itself as a pair",
        COLLAPSE,
        "= -np.inf  # a row and itself",
        "+= 0",
        "tests/evals/test_collapse.py::test_uniformity_of_orthogonal_and_opposite_rows",
    ),
    Mutant(
        "first of the folder",
        "a limit takes the first pictures, which are all of one class",
        REPRESENTATIONS,
        "known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))",
        "known = known[: self.config.train_limit]",
        "tests/evals/test_representations.py::test_limits_are_drawn_from_all_classes",
    ),
    Mutant(
        "transposed mask",
        "hidden patches are drawn column by column",
        PICTURES,
        "where = hidden.reshape(-1, side, side)",
        "where = hidden.reshape(-1, side, side).swapaxes(1, 2)",
        "tests/evals/test_pictures.py::test_hidden_patches_are_grey_in_their_place",
    ),
    Mutant(
        "few rows",
        "collapse is measured of fewer rows than four for each dimension",
        REPRESENTATIONS,
        "max(MEASURED[0], 4 * z.shape[1])",
        "MEASURED[0]",
        "tests/evals/test_representations.py::test_collapse_is_measured_of_four_rows_for_each_dimension",
    ),
    Mutant(
        "patience in lines",
        "the alarm waits for logged lines, not for steps",
        "pretrainx/training/alarm.py",
        'since = self.low.setdefault(metric, record["step"])',
        'since = self.low[metric] = self.low.get(metric, record["step"] + 1) - 1',
        "tests/training/test_alarm.py::test_patience_is_in_steps",
    ),
    Mutant(
        "twice denormalised",
        "what BEiT's tokenizer reads is drawn as if it were normalised",
        "pretrainx/objectives/beit.py",
        'unit_pictures = ("cells",)',
        "unit_pictures = ()",
        "tests/cli/test_data_commands.py::test_only_what_was_normalised_is_drawn_denormalised",
    ),
    Mutant(
        "endless alarm",
        "a collapse is told at every step",
        "pretrainx/training/alarm.py",
        "and metric not in self.told:",
        "and metric not in ():",
        "tests/training/test_alarm.py::test_told_again_only_after_it_was_over",
    ),
    Mutant(
        "bank of other parameters",
        "the sheet of neighbours takes a bank that other parameters made",
        REPRESENTATIONS,
        "if kept and kept[0] is params and kept[1] is extras and np",
        "if kept and np",
        "tests/evals/test_representations.py::test_the_bank_is_encoded_once",
    ),
]
