"""Letters of installed typefaces, by designer."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image
from samples import assert_checked

from provenance.core.errors import ContractError
from provenance.corpus.packages import glyphs


@pytest.fixture(scope="module")
def corpus():
    return glyphs.collect(owners=5, examples_each=10, held_out_each=2, size=12)


def test_letters_are_images_with_owners_and_licences(corpus, store):
    assert_checked(corpus, store)
    train, held_out = (corpus.examples.filter(split=split) for split in ("train", "held_out"))
    assert train.height == 50
    assert held_out.height == 10
    for content in train["content"]:
        image = np.asarray(Image.open(io.BytesIO(content)))
        assert image.shape == (12, 12)
        assert image.min() < 5, "there is a background"
        assert image.max() > 250, "something is drawn on it"
    assert corpus.owners.height == 5
    assert "Open" not in " ".join(corpus.owners["name"])
    assert set(train["licence_spdx"].drop_nulls()) <= {"OFL-1.1", "Apache-2.0"}


def test_the_choice_is_the_same_every_time(corpus):
    again = glyphs.collect(owners=5, examples_each=10, held_out_each=2, size=12)
    assert again.examples.equals(corpus.examples)
    more = glyphs.collect(owners=5, examples_each=12, held_out_each=2, size=12)
    ids = ["work_id", "position"]
    assert corpus.examples.filter(pl.col("split") == "train").join(more.examples, on=ids, how="anti").is_empty()


def test_without_typefaces_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(glyphs, "PACKAGES", ("no-such-font",))
    with pytest.raises(ContractError, match="expected one of the packages no-such-font, found none. Run make workloads"):
        glyphs.collect(owners=5, examples_each=10, held_out_each=2, size=12)
