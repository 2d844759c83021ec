"""Faults of models, objectives and evaluations of pictures with captions."""

from mutants.record import Mutant

SCORES, SHARED, CLIP, SIGLIP, COCA = (
    f"pretrainx/objectives/{name}.py" for name in ("pair_scores", "image_text", "clip", "siglip", "coca")
)
TOWER, WRITER, SIZES = (f"pretrainx/models/{name}.py" for name in ("text_tower", "coca", "sizes_pairs"))
BEAM, RETRIEVAL, CONTINUATION, EVALUATED = (
    f"pretrainx/evals/{name}.py" for name in ("beam", "retrieval", "continuation", "image_text")
)
RING = "pretrainx/parallel/ring.py"
TEST, TEST_SCORES = (f"tests/objectives/test_{name}.py::test_" for name in ("image_text", "pair_scores"))
TEST_TOWER, TEST_COCA, TEST_SIZES = (
    f"tests/models/test_{name}.py::test_" for name in ("text_tower", "coca_model", "sizes_pairs")
)
TEST_WRITING, TEST_EVALUATED = (f"tests/evals/test_{name}.py::test_" for name in ("writing", "image_text_evals"))

PAIRS = [
    Mutant(
        "own pair",
        "a partner is a negative, too",
        SCORES,
        "counts = partners.valid[None] & ~same & (rows.number[:, None] != partners.number[None])",
        "counts = partners.valid[None] & (~same | (rows.number[:, None] == partners.number[None]))",
        TEST + "loss_of_clip_by_hand[left_out-rows]",
    ),
    Mutant(
        "marks",
        "equal captions are negatives",
        SCORES,
        "partners.valid[None] & ~same & (",
        "partners.valid[None] & (",
        TEST + "loss_of_siglip_by_hand[left_out]",
    ),
    Mutant(
        "padded pair",
        "rows that are not valid are negatives",
        SCORES,
        "counts = partners.valid[None] & ~same",
        "counts = ~same",
        TEST + "rows_that_are_not_valid_are_nobody_s_negatives",
    ),
    Mutant(
        "still partners",
        "no gradient reaches the gathered rows",
        SCORES,
        "partners = rows._replace(vectors=wide(others))",
        "partners = rows._replace(vectors=jax.lax.stop_gradient(wide(others)))",
        TEST_SCORES + "gradients_of_forms_are_those_of_the_whole_matrix",
    ),
    Mutant(
        "short ring",
        "the ring forgets its last block",
        RING,
        "None, length=count)",
        "None, length=count - 1)",
        TEST_SCORES + "every_form_is_the_plain_one[sigmoid-ring-256-data-8]",
    ),
    Mutant(
        "two vectors",
        "a caption looks for a caption, not for its picture",
        CLIP,
        '("text_to_image", text, image)',
        '("text_to_image", text, text)',
        TEST + "loss_of_clip_by_hand[negatives-rows]",
    ),
    Mutant(
        "all published",
        "duplicates are left out where they are asked for as negatives",
        SHARED,
        'if self.config.duplicates == "negatives":',
        "if False:",
        TEST + "loss_of_clip_by_hand[negatives-rows]",
    ),
    Mutant(
        "free scale",
        "the scale has no bound",
        SHARED,
        'jnp.clip(space["log_scale"], 0.0, math.log(self.config.max_scale))',
        'space["log_scale"]',
        TEST + "the_scale_is_bounded_after_an_update",
    ),
    Mutant(
        "raw vectors",
        "vectors keep their length",
        SHARED,
        "{side: unit(found[side]) for side",
        "{side: found[side] for side",
        TEST + "lengths_of_vectors_do_not_count",
    ),
    Mutant(
        "all captions",
        "captions are drawn from those of padding too",
        SHARED,
        'jnp.maximum(example["captions"], 1)',
        "self.captions",
        TEST + "captions_are_drawn_from_those_that_are_there",
    ),
    Mutant(
        "no offset",
        "logits have no offset",
        SHARED,
        'space.get("offset", 0.0)',
        "0.0",
        TEST + "loss_of_siglip_by_hand",
    ),
    Mutant(
        "own loss",
        "SigLIP does not ask for a picture's own caption",
        SIGLIP,
        "jax.nn.softplus(-logits) + found.sum",
        "jax.nn.softplus(logits) + found.sum",
        TEST + "loss_of_siglip_by_hand",
    ),
    Mutant(
        "unshifted",
        "a caption's token is asked for where it is seen",
        COCA,
        'return inputs["tokens"][1:]',
        'return inputs["tokens"][:-1]',
        TEST + "what_the_model_sees_of_a_caption_is_what_was_drawn",
    ),
    Mutant(
        "padded caption",
        "padding is written too",
        COCA,
        '(inputs["tokens"][1:] != self.vocabulary.special("pad"))',
        '(inputs["tokens"][1:] >= 0)',
        TEST + "the_caption_loss_is_that_of_the_next_token_up_to_the_end",
    ),
    Mutant(
        "seen class",
        "the tokens of the text see the class token",
        TOWER,
        "self.layers = Stack(config, precision, config.depth, causal=config.causal)",
        'self.layers = Stack(config, precision, config.depth, causal=config.pool != "class")',
        TEST_TOWER + "the_class_token_sees_all_tokens_but_padding_and_none_sees_it",
    ),
    Mutant(
        "seen padding",
        "the class token sees padding",
        TOWER,
        "real = jnp.ones((tokens.shape[0], 1), jnp.int32), (tokens != self.pad).astype(jnp.int32)",
        "real = jnp.ones((tokens.shape[0], 1), jnp.int32), (tokens >= 0).astype(jnp.int32)",
        TEST_TOWER + "the_class_token_sees_all_tokens_but_padding_and_none_sees_it",
    ),
    Mutant(
        "last end",
        "the vector is that of the last end token",
        TOWER,
        "place = (tokens == self.end).argmax(1)",
        "place = tokens.shape[1] - 1 - (tokens == self.end)[:, ::-1].argmax(1)",
        TEST_TOWER + "the_vector_is_that_of_the_first_end",
    ),
    Mutant(
        "first twice",
        "the decoder reads the picture's vector too",
        WRITER,
        "return tokens[:, 0], tokens[:, 1:]",
        "return tokens[:, 0], tokens",
        TEST_COCA + "poolers_read_what_they_say[shared]",
    ),
    Mutant(
        "no cascade",
        "both poolers read the encoder's tokens",
        WRITER,
        'tokens if self.config.pooler == "cascade" else hidden',
        "hidden",
        TEST_COCA + "poolers_read_what_they_say[cascade]",
    ),
    Mutant(
        "old keys",
        "the multimodal half forgets the tokens before",
        WRITER,
        "cache.replace(unimodal=unimodal, own=own)",
        "cache.replace(unimodal=unimodal)",
        TEST_COCA + "decoding_in_parts_is_the_whole_pass",
    ),
    Mutant(
        "ties win",
        "what is as near stands behind",
        RETRIEVAL,
        "(~own).sum(1) - farther - as_near / 2",
        "(~own).sum(1) - farther - as_near",
        TEST_EVALUATED + "vectors_that_are_all_alike_find_nothing",
    ),
    Mutant(
        "one template",
        "templates are not averaged",
        EVALUATED,
        "len(self.config.templates), -1).mean(1)",
        "len(self.config.templates), -1)[:, 0]",
        TEST_EVALUATED + "zero_shot_by_hand",
    ),
    Mutant(
        "short classes",
        "the mean of templates is not made of length one",
        EVALUATED,
        "found /= np.linalg.norm(found, axis=1, keepdims=True)",
        "found /= 1",
        TEST_EVALUATED + "zero_shot_by_hand",
    ),
    Mutant(
        "uncut end",
        "a caption that is cut loses its end",
        "pretrainx/data/captions.py",
        "cut = [each[: room(width, begin)] for each in ids]",
        "cut = [each[: room(width, begin) + 1] for each in ids]",
        TEST_EVALUATED + "texts_are_framed_as_captions_are_in_training",
    ),
    Mutant(
        "no parents",
        "a beam goes on from another's beginning",
        BEAM,
        "tokens, ended, sizes = pick(tokens), pick(ended), pick(sizes)",
        "ended, sizes = pick(ended), pick(sizes)",
        TEST_WRITING + "a_wide_beam_finds_the_likeliest_sequence",
    ),
    Mutant(
        "narrow nucleus",
        "the nucleus lacks its last token",
        CONTINUATION,
        "before = jnp.cumsum(falling, 1) - falling",
        "before = jnp.cumsum(falling, 1)",
        TEST_WRITING + "nucleus_keeps_the_fewest_likeliest_tokens",
    ),
    Mutant(
        "free spaces",
        "projections into the shared space cost nothing",
        SIZES,
        "+ tower + 6 * config.embedding * (text.width + spaces)",
        "+ tower",
        TEST_SIZES + "flops_are_those_of_the_products",
    ),
]
