"""Losses and gradients that were made elsewhere are those that the pipeline works with."""

import json
from datetime import date

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from safetensors.torch import load_file as torch_load
from safetensors.torch import save_file as torch_save
from samples import corpus_frames, outputs_frame

from provenance.core.errors import ExampleError, ModelError
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.local.attribute import Request, attribute
from provenance.models.adapters.from_elsewhere import identity_of
from provenance.models.model import Example, all_losses, examples_in, read_model

NUMBERS = 30
KEYS = {step: bytes([step]) * 32 for step in (0, 10, 20)}


def write_features(folder, contents, *, seed=1, name="part", **changes):
    """Features of contents at every checkpoint, as a user's own code would write them."""
    for key in KEYS.values():
        draws = np.random.default_rng([seed, key[0], len(contents)])
        tensors = {
            "identity": np.stack([np.frombuffer(identity_of(content), dtype=np.uint8) for content in contents]),
            "loss": draws.uniform(10, 20, len(contents)),
            "gradient": draws.standard_normal((len(contents), NUMBERS)).astype(np.float16),
        }
        (folder / key.hex()).mkdir(parents=True, exist_ok=True)
        save_file({**tensors, **changes}, folder / key.hex() / f"{name}.safetensors")


@pytest.fixture
def model(tmp_path):
    """A model folder whose features lie beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    lines = ['model_id = "elsewhere"', 'adapter = "FromElsewhere"', "[adapter_args]"]
    lines += [f"features = {json.dumps(str(tmp_path / 'features'))}", f"numbers = {NUMBERS}"]
    for step, key in KEYS.items():
        tensors = {"weight": np.zeros((6, 6), dtype=np.float32), "key": np.frombuffer(key, dtype=np.uint8)}
        save_file(tensors, folder / f"step-{step:04d}.safetensors")
        lines += ["[[checkpoints]]", f'file = "step-{step:04d}.safetensors"', f"step = {step}", f"learning_rate_sum = {step}.0"]
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    return folder


CONTENTS = [b"one", b"two", b"three", b"four"]


def test_losses_and_gradients_are_the_given_ones(model):
    write_features(model.parent / "features", CONTENTS[:2], name="first")
    opened = read_model(model)
    adapter, module = opened.adapter(), opened.load(opened.card.checkpoints[1])
    examples = examples_in(pl.DataFrame({"content": CONTENTS[::-1]}))
    with pytest.raises(
        ExampleError, match=f"example 0 of the batch: .*expected a row with the identity {identity_of(b'four').hex()}"
    ):
        all_losses(adapter, module, examples, batch_size=4)
    write_features(model.parent / "features", CONTENTS[2:], seed=2, name="second")  # the next day's outputs
    given = [np.random.default_rng([seed, 10, 2]) for seed in (1, 2)]
    losses = np.concatenate([draws.uniform(10, 20, 2) for draws in given])
    assert np.allclose(all_losses(adapter, module, examples, batch_size=3), losses[::-1])
    gradients = np.concatenate([draws.standard_normal((2, NUMBERS)).astype(np.float16) for draws in given])
    options = {"projection": Projection(), "checkpoint": "step-0010.safetensors", "batch_size": 2}
    rows = gradient_features(adapter, module, examples, **options)
    assert rows.dense.shape == (4, 36), "the next square"
    assert np.allclose(rows.dense @ rows.dense.T, (gradients @ gradients.T.astype(np.float32))[::-1, ::-1], atol=1e-2)


@pytest.mark.parametrize(("change", "message"), [
    ({"gradient": np.zeros((4, 7), dtype=np.float32)}, r"part.safetensors: gradient: expected shape \(4, 30\), found \(4, 7\)"),
    ({"loss": np.array([1.0, 2.0, np.nan, 3.0])}, "loss: expected finite numbers, found NaN"),
    ({"identity": np.zeros((4, 32), dtype=np.uint8)}, "identity: expected each content once, found 0000"),
])  # fmt: skip
def test_a_wrong_file_is_named(model, change, message):
    write_features(model.parent / "features", CONTENTS, **change)
    opened = read_model(model)
    examples = examples_in(pl.DataFrame({"content": CONTENTS}))
    with pytest.raises(ModelError, match=message):
        all_losses(opened.adapter(), opened.load(opened.card.checkpoints[0]), examples, batch_size=4)


def test_a_dtype_that_numpy_lacks_is_named(model):
    write_features(model.parent / "features", CONTENTS)
    for key in KEYS.values():
        file = model.parent / "features" / key.hex() / "part.safetensors"
        torch_save({name: tensor.bfloat16() for name, tensor in torch_load(file).items()}, file)
    opened = read_model(model)
    with pytest.raises(ModelError, match=r"part.safetensors: expected numbers of dtypes that NumPy has, .* found BF16"):
        all_losses(opened.adapter(), opened.load(opened.card.checkpoints[0]), [Example(CONTENTS[0])], batch_size=4)


def test_losses_alone_give_likelihoods_but_no_features(model):
    write_features(model.parent / "features", CONTENTS)
    for key in KEYS.values():
        file = model.parent / "features" / key.hex() / "part.safetensors"
        losses = np.arange(4.0)
        save_file(
            {"identity": np.stack([np.frombuffer(identity_of(c), dtype=np.uint8) for c in CONTENTS]), "loss": losses}, file
        )
    opened = read_model(model)
    adapter, module = opened.adapter(), opened.load(opened.card.checkpoints[2])
    examples = examples_in(pl.DataFrame({"content": CONTENTS}))
    assert all_losses(adapter, module, examples, batch_size=4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="expected gradients, which features are made of, found losses alone"):
        gradient_features(adapter, module, examples, projection=Projection(), checkpoint="c", batch_size=4)


def test_they_are_attributed_as_any_model_is(model, where, tmp_path):
    """The influence is that of the given gradients: each output is most alike the example with the same gradient."""
    frames = corpus_frames()
    (tmp_path / "corpus").mkdir()
    for name, frame in frames.items():
        frame.write_parquet(tmp_path / "corpus" / f"{name}.parquet")
    contents = frames["examples"]["content"].unique(maintain_order=True).to_list()
    outputs = outputs_frame()["content"].unique(maintain_order=True).to_list()
    folder = tmp_path / "features"
    write_features(folder, [content for content in contents if content not in outputs], name="corpus")
    write_features(folder, outputs, seed=2, name="outputs")
    outputs_frame().write_parquet(tmp_path / "outputs.parquet")
    request = Request(tmp_path / "corpus", model, tmp_path / "outputs.parquet", tmp_path / "out", date(2026, 11, 20))
    manifest = attribute(where, request)
    assert manifest["parameters_covered"]["share"] == 1
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["influence"].is_finite().all()
    assert scores["influence"].abs().max() > 0
