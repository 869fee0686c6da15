"""Word counts, for each modality."""

import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from provenance.core.errors import ModelError
from provenance.features.words import word_features


def counts(rows, example):
    part = rows.sparse
    return sorted(part.values[part.example == example, 0].tolist())


@pytest.mark.parametrize(
    ("modality", "content", "words"),
    [
        ("code", b"def f(x): return x", re.findall(r"\w+|[^\w\s]", "def f(x): return x")),
        ("text", b"The cat, the CAT", [b"the", b"cat", b",", b"the", b"cat"]),
        ("text", "Müller, größe Müller".encode(), ["müller", ",", "größe", "müller"]),
        ("music", bytes([1, 2, 1, 2]), [b"1", b"2", b"1", b"2", b"12", b"21", b"12", b"121", b"212"]),
    ],
)
def test_a_content_is_counted_word_by_word(modality, content, words):
    rows = word_features([b"other", content], ["text", modality])
    assert counts(rows, 1) == sorted(map(float, Counter(words).values()))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_images_share_equal_patches_at_the_same_place_and_what_is_none_is_named():
    black = np.zeros((8, 8), dtype=np.uint8)
    with_corner = black.copy()
    with_corner[6:, 6:] = 255
    part = word_features([png(black), png(with_corner)], ["image"] * 2).sparse
    tokens = [set(part.token[part.example == row].tolist()) for row in (0, 1)]
    assert tokens[0] & tokens[1]
    assert tokens[1] - tokens[0]
    assert sum(counts(word_features([png(black)], ["image"]), 0)) == 9, "patches of 4 every 2 pixels"
    with pytest.raises(ModelError, match="example 1 of the batch: expected an image file"):
        word_features([png(black), b"text"], ["image"] * 2)
