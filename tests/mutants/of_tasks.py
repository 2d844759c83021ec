"""Faults of tasks on labelled text and of its data."""

from mutants.record import Mutant

SHARED, CLASSES, TAGS, ANSWERS, WRITTEN = (
    f"pretrainx/objectives/{name}.py"
    for name in (
        "labelled_text",
        "sequence_classification",
        "token_classification",
        "question_answering",
        "text_to_text",
    )
)
PREPARED, COLUMNS, LABELLED = (
    f"pretrainx/data/{name}.py" for name in ("prepared_labelled", "labelled_columns", "labelled")
)
SCORES, EVALUATED = "pretrainx/evals/task_scores.py", "pretrainx/runs/evaluation_of_labelled.py"
TEST, TEST_OTHERS = (
    f"tests/objectives/test_{name}.py::test_" for name in ("sequence_classification", "word_and_answer_tasks")
)
TEST_DATA, TEST_SCORES = "tests/data/test_labelled.py::test_", "tests/evals/test_task_scores.py::test_"
TEST_RUNS = "tests/runs/test_runs_of_labelled.py::test_"

TASKS = [
    Mutant(
        "padded mean",
        "the mean of a text is over its padding too",
        SHARED,
        "total = jnp.where(real[..., None], hidden, 0).sum(1)",
        "total = hidden.sum(1)",
        TEST + "the_vector_that_is_scored",
    ),
    Mutant(
        "place of the row",
        "a decoder's vector is that of the row's last place, padding or not",
        CLASSES,
        "last = jnp.where(real, places, 0).max(1)",
        "last = jnp.where(real, real.shape[1] - 1, 0).max(1)",
        TEST + "padding_changes_nothing[last]",
    ),
    Mutant(
        "attended padding",
        "padding is attended",
        SHARED,
        "keys, None, real.astype(jnp.int32)))",
        "keys, None, jnp.ones_like(tokens)))",
        TEST + "padding_changes_nothing[pooler]",
    ),
    Mutant(
        "one sentence",
        "the types of two texts do not reach the model",
        SHARED,
        "model.blocks(model.embed(tokens, keys, None, types), keys,",
        "model.blocks(model.embed(tokens, keys, None, None), keys,",
        TEST + "two_texts_are_told_apart_by_their_type",
    ),
    Mutant(
        "idle pooler",
        "a pooler that nothing reads stays among the parameters",
        CLASSES,
        'getattr(model, "pooler", False) and pool == "cls"}',
        'getattr(model, "pooler", False)}',
        TEST + "a_pooler_that_nothing_reads_is_left_out",
    ),
    Mutant(
        "smoothed figures",
        "labels are smoothed in evaluations too",
        CLASSES,
        "self.label_smoothing if train else 0.0",
        "self.label_smoothing",
        TEST + "the_loss_by_hand[0.3]",
    ),
    Mutant(
        "every token",
        "tokens that begin no word are of the first class",
        TAGS,
        "known = (tags >= 0) & (tags < self.head.scores.count)",
        "known = tags < self.head.scores.count",
        TEST_OTHERS + "tags_are_scored_where_words_begin",
    ),
    Mutant(
        "answers in padding",
        "an answer may begin in padding",
        ANSWERS,
        "logits = jnp.where(real[..., None], logits, jnp.finfo(logits.dtype).min / 2)",
        "logits = logits * 1",
        TEST_OTHERS + "padding_changes_no_answer",
    ),
    Mutant(
        "answers in questions",
        "an answer may stand in the question",
        ANSWERS,
        "fits = fits & context[:, :, None] & context[:, None, :]",
        "fits = fits & context.any(1)[:, None, None]",
        TEST_OTHERS + "the_likeliest_span_by_search",
    ),
    Mutant(
        "lenient",
        "answers that were cut off are left out of the figures",
        ANSWERS,
        'span, valid = observation.targets["span"], observation.valid.astype(jnp.float32)',
        'span, valid = observation.targets["span"], observation.weights["nll"]',
        TEST_OTHERS + "answers_are_begun_and_ended",
    ),
    Mutant(
        "exact padding",
        "what stands behind a target must be right too",
        WRITTEN,
        "return (some & (hits | ~real).all(1))",
        "return (some & hits.all(1))",
        TEST_OTHERS + "a_target_is_exact_where_all_of_it_is",
    ),
    Mutant(
        "straddling groups",
        "an example's split is that of its text, whatever it shares with others",
        "pretrainx/data/labelled_sources.py",
        'group = str(read(fields.group, "group")) if fields.group else',
        'group = str(read(fields.group, "group")) if False else',
        TEST_DATA + "a_group_is_in_one_split_and_its_name_alone_decides",
    ),
    Mutant(
        "spoilt tokenizer",
        "the tokenizer is trained on held-out texts too",
        LABELLED,
        'texts_of(splits["train"], config.target))\n    log(',
        "texts_of(sum(splits.values(), []), config.target))\n    log(",
        TEST_DATA + "the_tokenizer_is_trained_on_training_texts_alone",
    ),
    Mutant(
        "few in all",
        "so many labels in all, not of each class",
        PREPARED,
        "columns.labels if by_class else",
        "columns.labels if not by_class else",
        TEST_DATA + "few_labels_are_of_each_class_and_nested",
    ),
    Mutant(
        "half rows",
        "the first text of a pair has half a row, however short the second is",
        PREPARED,
        "text = min(text, max(room - second, room - room // 2))",
        "text = min(text, room - room // 2)",
        TEST_DATA + "of_a_pair_the_longer_text_is_cut",
    ),
    Mutant(
        "told beginnings",
        "tokens of an answer are those behind its beginning",
        COLUMNS,
        "inside = np.flatnonzero((ends > start) & (begins < stop))",
        "inside = np.flatnonzero((begins >= start) & (begins < stop))",
        TEST_DATA + "an_answer_inside_a_token_is_that_token",
    ),
    Mutant(
        "tags on every token",
        "every token of a word has its tag",
        COLUMNS,
        "each[:1] = number[tag]",
        "each[:] = number[tag]",
        TEST_DATA + "a_word_has_its_tag_at_its_first_token",
    ),
    Mutant(
        "narrow interval",
        "tokens of one text count as draws of their own",
        SCORES,
        "((totals - value * weights) ** 2).sum()) / whole",
        "((totals - value * weights) ** 2 / weights.clip(1)).sum()) / whole",
        TEST_SCORES + "tokens_of_one_text_are_no_draws_of_their_own",
    ),
    Mutant(
        "early test",
        "the test split is looked at while the run trains",
        EVALUATED,
        "return {} if step < self.recipe.train.steps else self.finished",
        "return {} if step < 0 else self.finished",
        TEST_RUNS + "a_class_is_learned_and_measured_on_the_test_split_at_the_end",
    ),
]
