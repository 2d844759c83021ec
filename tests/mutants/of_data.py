"""Faults of packing, mixtures, held-out batches, verification and fetching."""

from mutants.record import Mutant

ROWS, STREAM, PACKING, HELD_OUT = (f"pretrainx/data/{name}.py" for name in ("rows", "stream", "packing", "held_out"))
TEST_PACKING, TEST_MIXTURE, TEST_FETCH = (
    f"tests/data/test_{name}.py::test_" for name in ("packing", "mixture", "fetch")
)
TEST_FIELDS, TEST_TASKS, TEST_LOSSY, TEST_SPECIAL = (
    f"tests/data/test_{name}.py::test_" for name in ("text_fields", "tasks", "lossy_tokenizer", "special_tokens")
)

DATA = [
    Mutant(
        "pieces",
        "pieces of a long document do not overlap",
        PACKING,
        "targets, stride = lengths - overlap, width - overlap",
        "targets, stride, overlap = lengths, width, 0",
        TEST_PACKING + "every_target_of_every_document_exactly_once",
    ),
    Mutant(
        "one-segment",
        "all documents of a row are one segment",
        STREAM,
        "if self.several else segment",
        "if self.several else 1",
        TEST_PACKING + "every_target_of_every_document_exactly_once",
    ),
    Mutant(
        "best-fit",
        "pieces are packed in the order they come",
        PACKING,
        'np.argsort(-counts, kind="stable")',
        "np.arange(len(counts))",
        TEST_PACKING + "the_fullest_row_that_has_room_is_taken",
    ),
    Mutant(
        "packed-pad",
        "padded held-out rows are valid",
        HELD_OUT,
        'batch["valid"][: len(numbers)] = True',
        'batch["valid"][:] = True',
        TEST_PACKING + "held_out_documents_each_target_once_and_padded_batches",
    ),
    Mutant(
        "packed-length",
        "rows packed for another length are taken",
        "pretrainx/data/prepared.py",
        "if (reads.width, reads.overlap) == (width, overlap):",
        "if True:",
        TEST_PACKING + "another_length_needs_another_preparation",
    ),
    Mutant(
        "weights",
        "parts are mixed in equal shares",
        ROWS,
        "weights=list(self._weights)",
        "weights=[1.0] * len(self._weights)",
        TEST_MIXTURE + "realised_counts_are_the_weights_in_every_window",
    ),
    Mutant(
        "part-seed",
        "all parts are shuffled with one seed",
        ROWS,
        "_shuffled(int(start), len(rows), own_seed(seed, name))",
        "_shuffled(int(start), len(rows), seed)",
        TEST_MIXTURE + "equal_parts_go_through_different_permutations",
    ),
    Mutant(
        "part-rows",
        "rows of a part are counted from the mixture's beginning",
        ROWS,
        "(numbers[places] - self._starts[index]).tolist()",
        "(numbers[places] % len(self._parts[index][1])).tolist()",
        TEST_MIXTURE + "a_batch_holds_the_rows_it_names",
    ),
    Mutant(
        "leak",
        "the tokenizer sees held-out text",
        "pretrainx/data/corpus.py",
        'return (piece.text for split, piece in self.pieces() if split == "train")',
        "return (piece.text for split, piece in self.pieces())",
        TEST_MIXTURE + "the_tokenizer_is_trained_on_the_weighted_training_text",
    ),
    Mutant(
        "fingerprint",
        "weights are not in the fingerprint",
        "pretrainx/data/prepared.py",
        '"weights": list(self._shares()),',
        '"weights": [1.0],',
        TEST_MIXTURE + "other_weights_are_other_data",
    ),
    Mutant(
        "cut-record",
        "a cut ArrayRecord file is an empty one",
        "pretrainx/data/array_records.py",
        "if not reader.ok():",
        "if False:",
        "tests/data/test_sources.py::test_a_damaged_or_cut_record_file_is_named",
    ),
    Mutant(
        "digest",
        "an archive's digest is not compared",
        "pretrainx/data/fetch.py",
        "if entry.sha256 and digest != entry.sha256:",
        "if False:",
        TEST_FETCH + "what_is_not_as_known_leaves_nothing",
    ),
    Mutant(
        "traversal",
        "members may climb out of their directory",
        "pretrainx/data/archives.py",
        'if path.is_absolute() or ".." in path.parts or "\\\\" in name:',
        "if False:",
        TEST_FETCH + "a_member_that_climbs_out_is_refused",
    ),
    Mutant(
        "sentinel order",
        "the first sentinel has the first of their ids",
        "pretrainx/data/tokenizer.py",
        "for i in reversed(range(sentinels))]",
        "for i in range(sentinels)]",
        TEST_SPECIAL + "sentinels_are_the_last_ids_the_first_one_the_very_last",
    ),
    Mutant(
        "document word",
        "the first word of a document needs a blank",
        "pretrainx/data/fields.py",
        '(marks.words.take(ids, mode="clip") | (before == marks.end))',
        'marks.words.take(ids, mode="clip")',
        TEST_FIELDS + "words_begin_at_blanks_and_with_documents",
    ),
    Mutant(
        "every stop",
        "each point of three ends a sentence",
        "pretrainx/data/fields.py",
        ' & ~marks.sentences.take(before, mode="clip")',
        "",
        TEST_FIELDS + "sentences_end_at_stops_blank_lines_and_with_documents",
    ),
    Mutant(
        "own row",
        "another row may be the row itself",
        ROWS,
        "return (numbers + 1 + steps) % len(self)",
        "return (numbers + steps) % len(self)",
        TEST_FIELDS + "an_other_row_is_never_the_row_itself",
    ),
    Mutant(
        "task seed",
        "tasks that read the same rows read them side by side",
        "pretrainx/data/prepared.py",
        'return own_seed(seed, f"task/{name}")',
        "return seed",
        TEST_TASKS + "every_task_has_its_share_of_every_step_in_an_order_of_its_own",
    ),
    Mutant(
        "truncation",
        "documents are cut where the tokenizer's file says so",
        "pretrainx/data/tokenizer.py",
        "        inner.no_truncation()\n",
        "",
        TEST_LOSSY + "wordpiece",
    ),
]
