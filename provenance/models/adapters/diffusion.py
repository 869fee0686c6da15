"""Models images and latents with a diffusion model of the library `diffusers`."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.core.images import read_pixels, write_png
from provenance.models.adapters.denoiser import noise_of
from provenance.models.adapters.training_loop import in_order, recipe_for, train_and_save
from provenance.models.writing import CARD

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
IMAGE, ARRAY, FLOATS = "image", "npy", "float32"
KINDS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
# Ways to condition a UNet2DConditionModel or UNet2DModel that need more than a prompt gives.
OTHER_CONDITIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "time_cond_proj_dim")
SAMPLING_STEPS = 50
# Noise draws per content in a step of a first training.
SPREAD = 2


class Batch(NamedTuple):
    """What the model sees of some contents.

    Attributes:
        clean: images or latents, `(n, channels, height, width)`.
        noise: `(n, draws, channels, height, width)`.
        prompts: class labels `(n,)`, embeddings `(n, tokens, features)`, or None.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    prompts: torch.Tensor | None


class Diffusion:
    """A `UNet2DModel`, `UNet2DConditionModel` or `DiTTransformer2DModel` of `diffusers`.

    The loss is what such models are trained on (Ho et al. 2020, arXiv 2006.11239, eq. 14): half of the squared error of the
    prediction (noise, velocity or clean image, as the scheduler's configuration says), summed over pixels, at `draws` times,
    spread evenly over the process, and averaged over them. The noise depends on the content alone, so the loss of a content is
    the same in every batch. Variances that a model predicts besides (a DiT does) are left out.

    Args:
        folder: holds the model's `config.json` and `scheduler_config.json`, as `diffusers` writes them.
        contents: `image` (files that Pillow can open), `npy` (arrays of `numpy.save`, such as latents) or `float32` (their bare
            values, little-endian); arrays are `(channels, height, width)` as in `config.json`.
        draws: noise draws per content in `loss`.
        spread: noise draws per content in a step of training, each in its own part of the process; a plain loop has 1. A model
            that was trained elsewhere is not trained again unless it is stated.
        recipe: keys of `recipe.Training`, for a first training.

    Prompts are embeddings `(tokens, features)` as `npy` for a `UNet2DConditionModel` with cross-attention, and class labels in
    decimal digits for another model with classes; a model with neither takes no prompts.
    """

    def __init__(
        self, folder: Path, *, contents: str = IMAGE, draws: int = 16, spread: int | None = None, **recipe: Any
    ) -> None:
        self.folder, self.contents, self.draws = folder, contents, draws
        self.recipe = recipe_for(folder, recipe, epochs=60.0, batch_size=8, keep=(0.1, 0.2, 0.5, 1.0))
        self.spread = SPREAD if spread is None and self.recipe.source is None else spread
        self.arguments = {"contents": contents, "draws": draws}
        if self.spread is not None:
            if self.spread < 1:
                raise ModelError("adapter_args: spread", expected="1 or more", found=str(self.spread))
            self.arguments["spread"] = self.spread
        if contents not in {IMAGE, ARRAY, FLOATS}:
            raise ModelError("adapter_args: contents", expected=f"{IMAGE}, {ARRAY} or {FLOATS}", found=repr(contents))
        library, self.config = _library(), _read(folder / CONFIG)
        if (kind := self.config.get("_class_name")) not in KINDS:
            where = f"{folder / CONFIG}: _class_name"
            raise ModelError(where, expected=f"one of {', '.join(KINDS)}", found=repr(kind))
        scheduler, self.kind = _read(folder / SCHEDULER), kind
        known = ("DDPMScheduler", *library.DDPMScheduler._compatibles)  # noqa: SLF001
        if (name := scheduler.get("_class_name")) not in known:
            where = f"{folder / SCHEDULER}: _class_name"
            raise ModelError(where, expected="a scheduler that DDPMScheduler can stand for", found=repr(name))
        self.scheduler = library.DDPMScheduler.from_config(scheduler)
        self.steps: int = self.scheduler.config.num_train_timesteps
        size = self.config.get("sample_size")
        if size is None:
            raise ModelError(f"{folder / CONFIG}: sample_size", expected="height and width of the images", found="none")
        height, width = (size, size) if isinstance(size, int) else size
        self.shape: tuple[int, int, int] = (self.config["in_channels"], height, width)
        self._check_conditions()
        if contents == IMAGE and self.shape[0] not in {1, 3}:
            where, hint = f"{folder / CONFIG}: in_channels", f"Latents are contents = {ARRAY!r} or {FLOATS!r}."
            raise ModelError(where, expected="1 or 3 channels, for images", found=str(self.shape[0]), hint=hint)

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        module: torch.nn.Module = getattr(_library(), self.kind).from_config(self.config)
        return module

    def collate(self, contents: list[bytes], prompts: list[bytes | None] | None = None) -> Batch:
        """A batch of the contents with their noise and prompts."""
        clean = torch.stack([self._clean(row, content) for row, content in enumerate(contents)])
        given = self._prompts(prompts if prompts is not None else [None] * len(contents))
        return Batch(clean, noise_of(contents, (self.draws, *self.shape)), given)

    def loss(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Half of the squared error of each content, averaged over times: `(n,)`."""
        times = ((torch.arange(self.draws) + 0.5) * self.steps / self.draws).long().expand(len(batch.clean), -1)
        return self._errors(module, batch, times).mean(dim=1)

    def train(
        self,
        contents: Sequence[bytes],
        *,
        seed: int,
        folder: Path,
        prompts: Sequence[bytes | None] | None = None,
        **run: Any,
    ) -> None:
        """Train by the recipe on the squared error per pixel, with fresh noise at times spread evenly over the process.

        Other arguments are those of `training_loop.train_and_save`.
        """
        spread = self.check_trainable()
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, SCHEDULER) if folder != self.folder else ():
            shutil.copyfile(self.folder / name, folder / name)
        order = in_order(contents, prompts)
        clean = [self._clean(row, contents[row]) for row in order]
        given = self._prompts([None if prompts is None else prompts[row] for row in order])

        def loss(module: torch.nn.Module, places: list[int], draws: torch.Generator) -> tuple[torch.Tensor, int]:
            images = torch.stack([clean[place] for place in places])
            shape = (len(places), spread)
            noise = torch.randn((*shape, *self.shape), generator=draws)
            # One time from each part of the process, because independent times would add noise to the gradient.
            part = (torch.arange(spread) + torch.rand(shape, generator=draws)) / spread
            times = (part * self.steps).long().clamp(max=self.steps - 1)
            batch = Batch(images, noise, None if given is None else given[places])
            return 2 * self._errors(module, batch, times).mean(dim=1).sum(), images.numel()

        train_and_save(self, len(contents), loss, seed=seed, folder=folder, **run)

    def check_trainable(self) -> int:
        """The noise draws of a step; ModelError if a model that was trained elsewhere does not say how many there were."""
        if self.spread is None:
            hint = "Plain loops draw one time for each content in a step: spread = 1."
            where = f"{self.folder / CARD}: adapter_args.spread"
            raise ModelError(where, expected="the noise draws of a step, to train again", found="no such key", hint=hint)
        return self.spread

    def sample(
        self, module: torch.nn.Module, count: int, *, seed: int, prompts: Sequence[bytes | None] | None = None
    ) -> list[bytes]:
        """New contents, by the deterministic sampler of Song et al. 2021 (arXiv 2010.02502) in 50 steps."""
        sampler = _library().DDIMScheduler.from_config(self.scheduler.config)
        sampler.set_timesteps(min(SAMPLING_STEPS, self.steps))
        given = self._prompts(list(prompts) if prompts is not None else [None] * count)
        now = torch.randn((count, *self.shape), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            for time in sampler.timesteps:
                predicted = self._predict(module, now, time.expand(count), given)
                now = sampler.step(predicted, time, now, eta=0.0).prev_sample
        return [self._file(values) for values in now.numpy()]

    def _errors(self, module: torch.nn.Module, batch: Batch, times: torch.Tensor) -> torch.Tensor:
        """Half of the squared errors of predictions, summed over pixels: `(n, draws)`, all draws of a content side by side."""
        weight = next(module.parameters())
        draws, at = times.shape[1], times.flatten().to(weight.device)
        clean = batch.clean.to(weight).repeat_interleave(draws, dim=0)
        noise = batch.noise.to(weight).flatten(0, 1)
        noisy = self.scheduler.add_noise(clean, noise, at)
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            target = self.scheduler.get_velocity(clean, noise, at)
        else:
            target = noise if kind == "epsilon" else clean
        given = None if batch.prompts is None else batch.prompts.to(weight.device).repeat_interleave(draws, dim=0)
        predicted = self._predict(module, noisy, at, given)
        errors: torch.Tensor = (predicted - target).square().flatten(1).sum(dim=1).view(times.shape) / 2
        return errors

    def _predict(
        self, module: torch.nn.Module, noisy: torch.Tensor, times: torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        inputs: dict[str, Any] = {"encoder_hidden_states": None} if self.kind == "UNet2DConditionModel" else {}
        if given is not None:
            inputs |= {"encoder_hidden_states": given.to(noisy)} if self.crossed else {"class_labels": given}
        predicted: torch.Tensor = module(noisy, timestep=times, return_dict=False, **inputs)[0]
        return predicted[:, : noisy.shape[1]]

    def _check_conditions(self) -> None:
        """Read what the model is conditioned on besides the time, and refuse what no prompt can give."""
        blocks = (*self.config.get("down_block_types", ()), self.config.get("mid_block_type"))
        self.crossed = self.kind == "UNet2DConditionModel" and any("CrossAttn" in str(block) for block in blocks)
        name = "num_embeds_ada_norm" if self.kind == "DiTTransformer2DModel" else "num_class_embeds"
        self.classes: int | None = self.config.get(name)
        given = [key for key in OTHER_CONDITIONS if self.config.get(key) is not None]
        if self.crossed and self.classes is not None:
            given.append(name)
        if given:
            expected = "conditions on embeddings by cross-attention, or on class labels, or on neither"
            raise ModelError(f"{self.folder / CONFIG}: {given[0]}", expected=expected, found=repr(self.config[given[0]]))

    def _prompts(self, prompts: list[bytes | None]) -> torch.Tensor | None:
        if not self.crossed and self.classes is None:
            for row, prompt in enumerate(prompts):
                if prompt is not None:
                    hint = "It has no classes and no cross-attention."
                    raise ExampleError(in_batch(row), expected=f"no prompt for this {self.kind}", found="one", hint=hint)
            return None
        read = self._embedding if self.crossed else self._label
        values = [read(row, prompt) for row, prompt in enumerate(prompts)]
        if len({value.shape for value in values}) > 1:
            raise ExampleError("prompts of a batch", expected="embeddings of one shape", found="several")
        return torch.stack(values)

    def _label(self, row: int, prompt: bytes | None) -> torch.Tensor:
        assert self.classes is not None
        if prompt is None or not prompt.isdigit() or int(prompt) >= self.classes:
            expected, found = (
                f"as prompt a class label, 0 to {self.classes - 1}",
                "none" if prompt is None else repr(prompt[:24]),
            )
            raise ExampleError(in_batch(row), expected=expected, found=found)
        return torch.tensor(int(prompt))

    def _embedding(self, row: int, prompt: bytes | None) -> torch.Tensor:
        features = self.config.get("cross_attention_dim")
        expected = f"as prompt an embedding (tokens, {features}), as numpy.save writes it"
        if prompt is None:
            raise ExampleError(in_batch(row), expected=expected, found="none")
        values = _array(row, prompt, expected)
        if values.ndim != 2 or values.shape[1] != features:
            raise ExampleError(in_batch(row), expected=expected, found=f"shape {values.shape}")
        return torch.from_numpy(values)

    def _clean(self, row: int, content: bytes) -> torch.Tensor:
        channels, height, width = self.shape
        if self.contents == IMAGE:
            return torch.from_numpy(read_pixels(row, content, height=height, width=width, channels=channels))
        if self.contents == ARRAY:
            values = _array(row, content, f"an array {self.shape}, as numpy.save writes it")
        elif len(content) == 4 * channels * height * width:
            values = np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(self.shape)
        else:
            expected = f"{4 * channels * height * width} bytes, float32 {self.shape}"
            raise ExampleError(in_batch(row), expected=expected, found=f"{len(content)} bytes")
        if values.shape != self.shape:
            raise ExampleError(in_batch(row), expected=f"shape {self.shape}", found=f"shape {values.shape}")
        if not np.isfinite(values).all():
            raise ExampleError(in_batch(row), expected="finite numbers", found="NaN or infinite ones")
        return torch.from_numpy(values)

    def _file(self, values: np.ndarray) -> bytes:
        """A content of values, the inverse of `_clean`."""
        if self.contents == IMAGE:
            return write_png(values)
        if self.contents == FLOATS:
            return values.astype("<f4").tobytes()
        file = io.BytesIO()
        np.save(file, values.astype(np.float32))
        return file.getvalue()


def _library() -> Any:
    try:
        import diffusers
    except ImportError as error:
        hint = "Install the extra `diffusion`: pip install 'provenance[diffusion]'."
        raise ModelError("adapter Diffusion", expected="the library diffusers", found=str(error), hint=hint) from error
    return diffusers


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(str(path), expected="a configuration as diffusers writes it", found="no such file")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(str(path), expected="JSON", found=str(error)) from error
    return dict(values)


def _array(row: int, data: bytes, expected: str) -> np.ndarray:
    """An array of `numpy.save` as float32; pickles are refused."""
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        return np.ascontiguousarray(values, dtype=np.float32)
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise ExampleError(in_batch(row), expected=expected, found=f"{data[:16]!r}...: {error}") from error
