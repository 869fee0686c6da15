"""Models of the library diffusers: images and latents, labels and embeddings as prompts."""

import io
import json

import numpy as np
import pytest
import torch
from samples import reword

from provenance.core.errors import ModelError
from provenance.core.images import write_png
from provenance.features.gradients import gradient_features
from provenance.features.layers import layout
from provenance.features.projection import Projection, matrices
from provenance.models.adapters.diffusion import Diffusion
from provenance.models.model import Example, example_losses, read_model
from provenance.models.trainer import check_trainable

diffusers = pytest.importorskip("diffusers")
BLOCKS = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 2, "block_out_channels": (4, 8)}
KINDS = {
    "unet": lambda: diffusers.UNet2DModel(
        in_channels=1, out_channels=1, add_attention=False, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), **BLOCKS,
    ),
    "classes": lambda: diffusers.UNet2DModel(
        in_channels=1, out_channels=1, num_class_embeds=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, **BLOCKS,
    ),
    "conditioned": lambda: diffusers.UNet2DConditionModel(
        in_channels=2, out_channels=2, cross_attention_dim=5, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **BLOCKS,
    ),
    "dit": lambda: diffusers.DiTTransformer2DModel(
        in_channels=2, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4, num_embeds_ada_norm=3,
        patch_size=2, sample_size=8, norm_num_groups=2,
    ),
}  # fmt: skip


def write(folder, kind, **scheduler):
    KINDS[kind]().save_config(folder)
    diffusers.DDPMScheduler(**{"num_train_timesteps": 20, **scheduler}).save_pretrained(folder)
    return folder


def npy(values):
    file = io.BytesIO()
    np.save(file, values.astype(np.float32))
    return file.getvalue()


def examples_of(kind, count=3):
    draws = np.random.default_rng(1)
    if kind in {"unet", "classes"}:
        contents = [write_png(draws.uniform(-1, 1, (1, 8, 8)).astype(np.float32)) for _ in range(count)]
    else:
        contents = [npy(draws.normal(size=(2, 8, 8))) for _ in range(count)]
    prompts = {
        "unet": [None] * count,
        "conditioned": [npy(draws.normal(size=(3, 5))) for _ in range(count)],
    }.get(kind, [b"%d" % (row % 3) for row in range(count)])
    return [Example(*pair) for pair in zip(contents, prompts, strict=True)]


def adapter_of(folder, kind, **more):
    return Diffusion(write(folder, kind), contents="image" if kind in {"unet", "classes"} else "npy", draws=4, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_content_is_the_same_in_every_batch_and_depends_on_its_prompt(kind, tmp_path):
    adapter, examples = adapter_of(tmp_path, kind), examples_of(kind)
    torch.manual_seed(0)
    module = adapter.module().eval()
    # As a DiT begins: blocks that do nothing, whatever the prompt.
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    with torch.no_grad():
        together = example_losses(adapter, module, examples)
        alone = torch.cat([example_losses(adapter, module, [example]) for example in examples])
        other = example_losses(adapter, module, [Example(examples[0].content, examples[1].prompt)])
    assert together.tolist() == pytest.approx(alone.tolist(), rel=1e-4)
    assert (other[0] == alone[0]) == (kind == "unet")


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_is_repeated_from_the_folder(kind, tmp_path):
    adapter, examples = adapter_of(tmp_path / "made", kind, epochs=60, batch_size=3), examples_of(kind)
    contents, prompts = zip(*examples, strict=True)
    for source, name in ((adapter, "first"), (None, "again")):
        made = source or read_model(tmp_path / "first").adapter()
        made.train(list(contents), seed=1, folder=tmp_path / name, prompts=list(prompts) if any(prompts) else None)
    model, again = (read_model(tmp_path / name) for name in ("first", "again"))
    last = model.card.checkpoints[-1].file
    assert model.files[last] == again.files[last]
    before, after = (
        example_losses(model.adapter(), model.load(model.card.checkpoints[at]), examples).sum().item() for at in (0, -1)
    )
    assert after < 0.9 * before


def test_a_step_minimises_the_mean_squared_error_of_a_plain_loop(tmp_path):
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "max_grad_norm": 0.0}
    adapter = adapter_of(tmp_path / "made", "unet", spread=1, epochs=1, batch_size=3, learning_rate=0.1, **plain)
    contents = [example.content for example in examples_of("unet")]
    adapter.train(contents, seed=1, folder=tmp_path / "trained")
    model = read_model(tmp_path / "trained")
    module, trained = (model.load(checkpoint) for checkpoint in (model.card.checkpoints[0], model.card.checkpoints[-1]))
    draws = torch.Generator().manual_seed(1)
    order = torch.randperm(3, generator=draws).tolist()
    clean = torch.stack([adapter._clean(0, sorted(contents)[row]) for row in order])
    noise = torch.randn((3, 1, *adapter.shape), generator=draws)[:, 0]
    times = (torch.rand((3, 1), generator=draws)[:, 0] * 20).long()
    predicted = module.train()(adapter.scheduler.add_noise(clean, noise, times), times).sample
    torch.nn.functional.mse_loss(predicted, noise).backward()
    after = dict(trained.named_parameters())
    for name, weight in module.named_parameters():
        assert torch.allclose(after[name], weight - 0.1 * weight.grad, atol=1e-5), name


def test_a_run_from_elsewhere_is_not_trained_again_unless_its_draws_are_known(tmp_path):
    adapter = adapter_of(tmp_path / "made", "unet", epochs=1, batch_size=3)
    contents = [example.content for example in examples_of("unet")]
    adapter.train(contents, seed=1, folder=tmp_path / "trained")
    card = tmp_path / "trained/model.toml"
    reword(card, "spread = 2\n", "")
    check_trainable(read_model(tmp_path / "trained"))
    reword(card, "[training]\n", '[training]\nsource = "recorded"\n')
    model = read_model(tmp_path / "trained")
    with pytest.raises(ModelError, match=r"adapter_args.spread: expected the noise draws of a step, .* found no such key"):
        check_trainable(model)
    with pytest.raises(ModelError, match=r"adapter_args.spread: expected the noise draws of a step"):
        model.adapter().train(contents, seed=1, folder=tmp_path / "again")
    reword(card, "draws = 4\n", "draws = 4\nspread = 1\n")
    check_trainable(read_model(tmp_path / "trained"))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_gradients_of_autograd(kind, tmp_path):
    adapter, examples = adapter_of(tmp_path, kind), examples_of(kind)
    torch.manual_seed(0)
    module = adapter.module().eval()
    for parameter in module.parameters():  # a DiT begins with blocks that do nothing
        parameter.data += 0.02 * torch.randn_like(parameter)
    projection = Projection(dense=500, dense_alone=500, token_rank=4, seed=1)
    rows = gradient_features(adapter, module, examples, projection=projection, checkpoint="x", batch_size=3)
    layers, blocks = dict(module.named_modules()), layout(module, projection).blocks
    assert {block.kind for block in blocks} == {"dense"}
    for row, example in enumerate(examples):
        module.zero_grad()
        example_losses(adapter, module, [example]).sum().backward()
        expected = []
        for block in blocks:
            left, right = (torch.as_tensor(side, dtype=torch.float32) for side in matrices(block, projection, "x"))
            gradient = layers[block.name].weight.grad.flatten(1)
            gradient = gradient if isinstance(layers[block.name], torch.nn.Embedding) else gradient.T
            expected.append((left.T @ gradient @ right).flatten())
        expected = torch.cat(expected).numpy()
        assert np.abs(rows.dense[row] - expected).max() < 1e-4 * np.abs(expected).max()


def test_predictions_of_velocities_and_of_clean_images_have_their_own_targets(tmp_path):
    (example,) = examples_of("unet", 1)
    losses = {}
    for kind in ("epsilon", "sample", "v_prediction"):
        adapter = Diffusion(write(tmp_path / kind, "unet", prediction_type=kind), draws=4)
        torch.manual_seed(0)
        module = adapter.module()
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)  # a prediction of zeros, whose error is the target itself
        losses[kind] = adapter.loss(module, adapter.collate([example.content])).item()
    noise, clean = adapter.collate([example.content]).noise, adapter.collate([example.content]).clean
    assert losses["epsilon"] == pytest.approx(noise.square().sum().item() / 8, rel=1e-5)
    assert losses["sample"] == pytest.approx(clean.square().sum().item() / 2, rel=1e-5)
    level = adapter.scheduler.alphas_cumprod[((torch.arange(4) + 0.5) * 5).long()]
    velocity = level.sqrt()[:, None, None, None] * noise[0] - (1 - level).sqrt()[:, None, None, None] * clean
    assert losses["v_prediction"] == pytest.approx(velocity.square().sum().item() / 8, rel=1e-5)


@pytest.mark.parametrize("contents", ["image", "npy", "float32"])
def test_samples_are_contents_again(contents, tmp_path):
    adapter = Diffusion(write(tmp_path, "unet"), contents=contents)
    module = adapter.module().eval()
    first, again, other = (adapter.sample(module, 2, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert adapter.collate(first).clean.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("kind", "content", "prompt", "message"),
    [
        ("unet", "own", b"1", r"expected no prompt for this UNet2DModel, found one. It has no classes"),
        ("classes", "own", None, r"expected as prompt a class label, 0 to 2, found none"),
        ("classes", "own", b"3", r"expected as prompt a class label, 0 to 2, found b'3'"),
        ("conditioned", "own", None, r"expected as prompt an embedding \(tokens, 5\), as numpy.save writes it, found none"),
        ("conditioned", "own", b"a cat", r"expected as prompt an embedding .* found b'a cat'"),
        ("conditioned", "own", npy(np.zeros((2, 4))), r"found shape \(2, 4\)"),
        ("dit", npy(np.zeros((2, 8, 4))), b"1", r"expected shape \(2, 8, 8\), found shape \(2, 8, 4\)"),
        ("dit", npy(np.full((2, 8, 8), np.nan)), b"1", r"expected finite numbers, found NaN"),
        ("dit", b"\x80\x04pickle", b"1", r"expected an array \(2, 8, 8\), as numpy.save writes it"),
        ("unet", b"no image", None, r"expected an image file"),
    ],
)
def test_what_does_not_fit_is_refused(kind, content, prompt, message, tmp_path):
    adapter = adapter_of(tmp_path, kind)
    content = examples_of(kind)[0].content if content == "own" else content
    with pytest.raises(ModelError, match=message):
        adapter.collate([content], [prompt])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            {"_class_name": "AutoencoderKL"},
            r"_class_name: expected one of UNet2DModel, .* found 'AutoencoderKL'",
        ),
        ("config.json", {"sample_size": None}, r"sample_size: expected height and width of the images, found none"),
        ("config.json", {"in_channels": 4}, r"in_channels: expected 1 or 3 channels, for images, found 4. Latents are"),
        ("config.json", {"class_embed_type": "timestep"}, r"class_embed_type: expected conditions on embeddings"),
        (
            "scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            r"expected a scheduler that DDPMScheduler",
        ),
    ],
)
def test_configurations_that_are_not_supported_are_named(file, change, message, tmp_path):
    write(tmp_path, "unet")
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    with pytest.raises(ModelError, match=message):
        Diffusion(tmp_path)


def test_missing_files_and_a_missing_library_are_named(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"config.json: expected a configuration as diffusers writes it, found no such file"):
        Diffusion(tmp_path)
    write(tmp_path, "unet")
    with pytest.raises(ModelError, match=r"contents: expected image, npy or float32, found 'jpeg'"):
        Diffusion(tmp_path, contents="jpeg")
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ModelError, match=r"expected the library diffusers, .* Install the extra `diffusion`"):
        Diffusion(tmp_path)
