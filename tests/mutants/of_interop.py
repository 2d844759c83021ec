"""Faults of import and export."""

from mutants.record import Mutant

PACKAGE, TEST = "pretrainx/interop/", "tests/interop/test_huggingface.py::test_"
COMMANDS = "tests/interop/test_import_and_export.py::test_"

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
        "(self.predicted or self.vocab_size)",
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
]
