"""What pictures with captions are, agreed between data, models and objectives as Images and Vocabulary are."""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.core.images import Images
from pretrainx.core.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pairs:
    """What image-text data say of themselves.

    Attributes:
      images: the form of the pictures; its classes are the names of labels, where pictures have labels beside captions.
      vocabulary: the ids of the captions' tokens.
    """

    images: Images
    vocabulary: Vocabulary
