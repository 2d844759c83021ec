"""Faults of what concerns pictures: augmentation, models, objectives, data, evaluation."""

from mutants.record import Mutant

CROPS, COLOUR, BLUR, AUGMENTATION = (
    f"pretrainx/objectives/{name}.py" for name in ("crops", "colour", "blur", "augmentation")
)
TEST_CROPS, TEST_COLOUR, TEST_BLUR, TEST_AUGMENTATION = (
    f"tests/objectives/test_{name}.py::test_" for name in ("crops", "colour", "blur", "augmentation")
)

AUGMENTATIONS = [
    Mutant(
        "antialias",
        "the filter is not widened where the crop shrinks",
        CROPS,
        "/ jnp.maximum(scale, 1))",
        "/ 1)",
        TEST_CROPS + "resampling_is_pillows[bilinear]",
    ),
    Mutant(
        "outside",
        "the resampled crop sees pixels beside it",
        CROPS,
        "jnp.where((pixels > -0.5) & (pixels < length - 0.5), found, 0)",
        "jnp.where(pixels > -99, found, 0)",
        TEST_CROPS + "nothing_outside_the_box_is_seen[bicubic]",
    ),
    Mutant(
        "last place",
        "no crop lies at the last place that has room",
        CROPS,
        "jnp.floor(place * (spare + 1))",
        "jnp.floor(place * spare)",
        TEST_CROPS + "random_boxes_lie_anywhere_inside",
    ),
    Mutant(
        "aspect law",
        "aspects are uniform, not their logarithms",
        CROPS,
        "ratio = jnp.exp(low + (high - low) * slant)",
        "ratio = math.exp(low) + (math.exp(high) - math.exp(low)) * slant",
        TEST_CROPS + "sides_of_random_boxes[area1-aspect1]",
    ),
    Mutant(
        "central crop",
        "where no crop fits, the whole picture is squeezed",
        CROPS,
        "return height, round(height * aspect[1])",
        "return height, width",
        TEST_CROPS + "where_no_box_fits_the_middle_is_taken",
    ),
    Mutant(
        "grey mean",
        "contrast is about each pixel's own grey",
        COLOUR,
        "jnp.where(operation == CONTRAST, grey.mean(), 0)",
        "jnp.where(operation == CONTRAST, grey, 0)",
        TEST_COLOUR + "any_order[0]",
    ),
    Mutant(
        "jitter order",
        "what should come behind hue comes before it",
        COLOUR,
        "jnp.where(index < place, 1, factors[others[index]])",
        "jnp.where(index <= place, 1, factors[others[index]])",
        TEST_COLOUR + "any_order[-1]",
    ),
    Mutant(
        "one order",
        "some orders of the jitter are never drawn",
        COLOUR,
        "draws[4] * len(ORDERS)",
        "draws[4] * (len(ORDERS) - 1)",
        TEST_COLOUR + "orders_and_factors",
    ),
    Mutant(
        "negative",
        "a strength above 1 gives factors below 0",
        COLOUR,
        "np.maximum(middle - strength, np.float32([0, 0, 0, -0.5]))",
        "middle - strength",
        TEST_COLOUR + "orders_and_factors",
    ),
    Mutant(
        "edges",
        "the outermost pixels are mirrored too",
        BLUR,
        '((margin, margin), (0, 0)), mode="reflect"',
        '((margin, margin), (0, 0)), mode="symmetric"',
        TEST_BLUR + "as_scipy_correlates[2.0-9]",
    ),
    Mutant(
        "one chance",
        "grey pictures are those that are flipped",
        AUGMENTATION,
        'chances["grayscale"] < self.grayscale',
        'chances["flip"] < self.grayscale',
        TEST_AUGMENTATION + "chances_are_independent",
    ),
    Mutant(
        "late grey",
        "colours are jittered before they are taken away",
        AUGMENTATION,
        "        if self.grey_first:",
        "        if False:",
        TEST_AUGMENTATION + "grey_first",
    ),
    Mutant(
        "late jitter",
        "jitter sees the crop only",
        AUGMENTATION,
        "        if self.jitter_first:",
        "        if False:",
        TEST_AUGMENTATION + "jitter_first",
    ),
]
