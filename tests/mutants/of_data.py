"""Faults of packing, mixtures, held-out batches, verification and fetching."""

from mutants.record import Mutant

ROWS, PACKING, HELD_OUT = (f"pretrainx/data/{name}.py" for name in ("rows", "packing", "held_out"))
TEST_PACKING, TEST_MIXTURE, TEST_FETCH = (
    f"tests/data/test_{name}.py::test_" for name in ("packing", "mixture", "fetch")
)

DATA = [
    Mutant(
        "pieces",
        "pieces of a long document do not overlap",
        PACKING,
        "counts = -(-targets // length)",
        "counts = -(-(targets + 1) // (length + 1))",
        TEST_PACKING + "every_target_of_every_document_exactly_once",
    ),
    Mutant(
        "one-segment",
        "all documents of a row are one segment",
        ROWS,
        "segments[place, at : at + count] = segment",
        "segments[place, at : at + count] = 1",
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
        '"valid": np.arange(batch_size) < count,',
        '"valid": np.ones(batch_size, bool),',
        TEST_PACKING + "held_out_documents_each_target_once_and_padded_batches",
    ),
    Mutant(
        "packed-length",
        "rows packed for another length are taken",
        "pretrainx/data/prepared.py",
        'if length != self.meta["length"]:',
        "if False:",
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
        "_own(seed, name))",
        "seed)",
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
]
