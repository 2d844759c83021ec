"""Faults of import and export."""

from mutants.record import Mutant

PACKAGE, TEST = "pretrainx/interop/", "tests/interop/test_huggingface.py::test_"
COMMANDS = "tests/interop/test_import_and_export.py::test_"
ENCODERS = "tests/interop/test_encoders.py::test_"

INTEROP = [
    Mutant(
        "fused",
        "GPT-2's fused matrix split in another order",
        PACKAGE + "gpt2.py",
        '("query", "key", "value")',
        '("query", "value", "key")',
        TEST + "where_the_numbers_of_gpt2_lie",
    ),
    Mutant(
        "padding out",
        "padded rows of the vocabulary are exported",
        PACKAGE + "tensors.py",
        "[:inputs, :outputs]",
        "[-inputs:, :outputs]",
        TEST + "tables_leave_room_for_the_ids_of_both",
    ),
    Mutant(
        "unknown key",
        "a key of config.json that is not understood is skipped",
        PACKAGE + "keys.py",
        "self._left = set(values) - IDLE",
        "self._left = set()",
        TEST + "a_configuration_that_cannot_be_followed",
    ),
    Mutant(
        "rope scaling",
        "scaled rotary positions pass for plain ones",
        PACKAGE + "llama.py",
        'if kind != "default" or extra',
        "if extra",
        TEST + "a_configuration_that_cannot_be_followed",
    ),
    Mutant(
        "float16 out",
        "trained weights are rounded to the source's dtype",
        PACKAGE + "weights.py",
        "    if all(np.array_equal(narrow[name]",
        "    if True or all(np.array_equal(narrow[name]",
        TEST + "float16_is_written_only_where_nothing_is_lost",
    ),
    Mutant(
        "added padding",
        "the padding that a tokenizer lacks takes part in the softmax",
        "pretrainx/models/decoder.py",
        "self.predicted or self.vocab_size",
        "self.vocab_size",
        COMMANDS + "the_loss_is_over_the_ids_of_the_source",
    ),
    Mutant(
        "lost bytes",
        "bytes that a tokenizer lacks vanish from texts",
        "pretrainx/data/tokenizer.py",
        "        if self._lacking:",
        "        if False:",
        "tests/data/test_foreign_tokenizer.py::test_bytes_that_a_tokenizer_lacks_are_refused_in_texts",
    ),
    Mutant(
        "narrow recipe",
        "an imported model trains in the dtype of its files",
        "pretrainx/runs/interop.py",
        'params = "float64" if model.facts["dtype"] == "float64" else "float32"',
        'params = model.facts["dtype"]',
        COMMANDS + "precision_of_the_source",
    ),
    Mutant(
        "padding's rows",
        "RoBERTa's positions begin at the padding's row",
        PACKAGE + "roberta.py",
        'keys.index("pad_token_id", 1) + 1',
        'keys.index("pad_token_id", 1)',
        ENCODERS + "where_the_numbers_of_encoders_lie",
    ),
    Mutant(
        "any copy",
        "a stored copy that differs from the tied tensor is dropped unseen",
        PACKAGE + "weights.py",
        "if name in full and not np.array_equal",
        "if False and not np.array_equal",
        ENCODERS + "copies_and_buffers",
    ),
    Mutant(
        "logits' bias",
        "BART's bias of the logits is dropped whatever it is",
        PACKAGE + "weights.py",
        "if np.any(full.pop(name, 0)):",
        "if full.pop(name, 0) is None:",
        ENCODERS + "a_bias_of_the_logits_that_has_no_leaf",
    ),
    Mutant(
        "own head",
        "T5 1.1's head is taken for a copy of the token table",
        PACKAGE + "t5.py",
        "tied=scaled or (new and HEAD not in names),",
        "tied=True,",
        ENCODERS + "what_a_model_has_is_in_its_files",
    ),
    Mutant(
        "sides",
        "a decoder of other sizes than the encoder's passes",
        PACKAGE + "bart.py",
        "    if encoder != decoder:",
        "    if False:",
        TEST + "a_configuration_that_cannot_be_followed",
    ),
    Mutant(
        "another padding",
        "a model is written as RoBERTa with positions that begin elsewhere than they are read",
        PACKAGE + "roberta.py",
        'offset = special["pad"] + 1',
        'offset = special["pad"]',
        ENCODERS + "positions_begin_behind_the_padding",
    ),
]
