"""A whole attribution uses only the array standard: it runs with NumPy, with a strict stand-in for CuPy, and with torch.

On a GPU passes are followed in torch and scores made in CuPy.
"""

import array_api_compat.torch
import array_api_strict
import numpy as np
import pytest
from samples import corpus_frames, outputs_frame

from provenance.core.arrays import to_numpy
from provenance.core.rows import decode, encode, move
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.features.sampled import sampled_features
from provenance.features.statistics import gather
from provenance.features.words import word_features
from provenance.influence.methods import fit, prepare, sampled_of, score
from provenance.models.model import examples_in, read_model

WHERE = {"projection": Projection(dense=64, token_rank=4), "batch_size": 8}


def run(folder, xp):
    """Influences of a corpus on outputs, computed with arrays of xp."""
    model = read_model(folder)
    checkpoint = model.card.checkpoints[1]
    adapter, module = model.adapter(), model.load(checkpoint)
    where = {**WHERE, "checkpoint": checkpoint.file, "xp": xp}
    examples = examples_in(corpus_frames()["examples"])[:24]
    rows = gradient_features(adapter, module, examples, **where)
    stored = decode(encode(rows, dense_bits=8, sparse_bits=4), xp)
    batches = list(sampled_features(adapter, module, examples[:8], draws=2, **where))
    sampled = sampled_of(batches, 8)
    outputs = move(gradient_features(adapter, module, examples_in(outputs_frame()), **where), np)
    queries = prepare(fit(gather(stored), move(stored, np), sampled), outputs, xp)
    return np.stack([to_numpy(component) for component in score(queries, stored)])


@pytest.mark.parametrize("xp", [array_api_strict, array_api_compat.torch])
def test_a_run_is_the_same_in_every_library(tiny_model, xp):
    plain, other = run(tiny_model, np), run(tiny_model, xp)
    assert plain.shape == (3, 8, 24)
    for plain_part, other_part in zip(plain, other, strict=True):
        assert np.allclose(plain_part, other_part, rtol=1e-5, atol=1e-6 * np.abs(plain_part).max())


def test_words_are_compared_alike_under_the_strict_standard():
    works, outputs = (frame["content"].to_list() for frame in (corpus_frames()["examples"], outputs_frame()))
    documents, outputs = (word_features(contents, ["code"] * len(contents)) for contents in (works, outputs))
    fitted = fit(gather(documents), documents)
    ((plain,), (strict,)) = (score(prepare(fitted, outputs, xp), move(documents, xp)) for xp in (np, array_api_strict))
    plain, strict = to_numpy(plain), to_numpy(strict)
    assert np.allclose(plain, strict, rtol=1e-5, atol=1e-6)
