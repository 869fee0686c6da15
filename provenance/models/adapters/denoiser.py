"""Models images with a small convolutional denoising-diffusion model (Ho et al. 2020, arXiv 2006.11239)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from provenance.core.images import read_pixels, write_png
from provenance.models.adapters.training_loop import in_order, recipe_for, train_and_save

FREQUENCIES = 16


def noise_of(contents: Sequence[bytes], shape: tuple[int, ...]) -> torch.Tensor:
    """Normal noise `(n, *shape)` that depends on each content alone, so that its loss is the same in every batch."""
    seeds = [int.from_bytes(hashlib.sha256(content).digest()[:16]) for content in contents]
    drawn = [np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(drawn))


class NoisePredictor(torch.nn.Module):
    """Predicts the noise in an image, by convolutions at full and half size with the time added to every channel."""

    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.time = torch.nn.Linear(2 * FREQUENCIES, wide)
        self.into = torch.nn.Conv2d(channels, width, 3, padding=1)
        self.down = torch.nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.middle = torch.nn.Conv2d(wide, wide, 3, padding=1)
        self.at_down, self.at_middle, self.at_up = (torch.nn.Linear(wide, size) for size in (wide, wide, width))
        self.up = torch.nn.Conv2d(wide + width, width, 3, padding=1)
        self.out = torch.nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, noisy: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """The noise in `noisy` `(n, channels, height, width)` at `part` `(n,)` of the way from image to noise."""
        powers = 2.0 ** torch.arange(FREQUENCIES, device=part.device) * (math.pi / 64)
        angles = part[:, None].to(noisy.dtype) * powers.to(noisy.dtype)
        time = functional.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)))
        full = functional.silu(self.into(noisy))
        half = functional.silu(self.down(full) + self.at_down(time)[:, :, None, None])
        half = half + functional.silu(self.middle(half) + self.at_middle(time)[:, :, None, None])
        enlarged = functional.interpolate(half, size=full.shape[-2:], mode="nearest")
        joined = functional.silu(self.up(torch.cat([enlarged, full], dim=1)) + self.at_up(time)[:, :, None, None])
        noise: torch.Tensor = self.out(joined)
        return noise


class Denoiser:
    """A denoising-diffusion model of images; contents are image files that Pillow can open.

    The loss is the variational bound on the negative log-likelihood, without the terms that do not depend on weights: the
    weighted squared errors of the predicted noise at `draws` times, spread evenly over the process, times `steps / draws`. The
    noise depends on the image alone, so the loss of an image is the same in every batch.

    Args:
        size: height and width of the images; others are an error.
        channels: 1 (grey) or 3 (colour).
        width: channels of the first layer.
        steps: steps of the diffusion process, which has a cosine schedule.
        draws: noise draws per image in `loss`.
        spread: noise draws per image in a step of training.
        recipe: keys of `recipe.Training`, for a first training.
    """

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 16,
        channels: int = 1,
        width: int = 16,
        steps: int = 100,
        draws: int = 16,
        spread: int = 4,
        **recipe: Any,
    ) -> None:
        self.folder = folder
        self.arguments = {"size": size, "channels": channels, "width": width, "steps": steps, "draws": draws, "spread": spread}
        self.size, self.channels, self.steps, self.draws, self.spread = size, channels, steps, draws, spread
        self.recipe = recipe_for(folder, recipe, epochs=60.0, keep=(0.1, 0.2, 0.5, 1.0))
        part = torch.arange(steps + 1, dtype=torch.float64) / steps
        level = torch.cos((part + 0.008) / 1.008 * math.pi / 2) ** 2  # Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17
        signal = (level / level[0])[1:].clamp(min=1e-4)
        alpha = (signal / torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])).clamp(min=1e-3)
        # Ho et al. eq. 12 with sigma_t^2 = beta_t.
        self.weight = ((1 - alpha) / (2 * alpha * (1 - signal))).float()
        self.signal = signal.float()

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        return NoisePredictor(channels=self.channels, width=self.arguments["width"])

    def collate(self, contents: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(n, channels, size, size)` in [-1, 1], and their noise `(n, draws, channels, size, size)`."""
        images = torch.stack([self._image(row, content) for row, content in enumerate(contents)])
        shape = (self.draws, self.channels, self.size, self.size)
        return images, noise_of(contents, shape)

    def loss(self, module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The variational bound of each image up to a constant: `(n,)`, in nats."""
        images, noise = batch
        times = ((torch.arange(self.draws) + 0.5) * self.steps / self.draws).long().expand(len(images), -1)
        errors = self._errors(module, images, noise, times)
        return (errors * self.weight[times].to(errors)).sum(dim=1) * (self.steps / self.draws)

    def train(self, contents: Sequence[bytes], *, seed: int, folder: Path, **run: Any) -> None:
        """Train by the recipe on the variational bound, with fresh noise at times spread evenly over the process.

        Arguments are those of `training_loop.train_and_save`; the loss is in nats per pixel, up to a constant.
        """
        images = [self._image(row, contents[row]) for row in in_order(contents)]

        def loss(module: torch.nn.Module, places: list[int], draws: torch.Generator) -> tuple[torch.Tensor, int]:
            clean = torch.stack([images[place] for place in places])
            shape = (len(places), self.spread)
            noise = torch.randn((*shape, *clean.shape[1:]), generator=draws)
            # One time from each part of the process, because independent times would add noise to the gradient.
            part = (torch.arange(self.spread) + torch.rand(shape, generator=draws)) / self.spread
            times = (part * self.steps).long().clamp(max=self.steps - 1)
            errors = self._errors(module, clean, noise, times)
            errors = errors * self.weight[times].to(errors)
            return errors.mean(dim=1).sum() * self.steps, clean.numel()

        train_and_save(self, len(contents), loss, seed=seed, folder=folder, **run)

    def sample(self, module: torch.nn.Module, count: int, *, seed: int) -> list[bytes]:
        """New images as PNG files, by the deterministic sampler of Song et al. 2021 (arXiv 2010.02502, eq. 12)."""
        draws = torch.Generator().manual_seed(seed)
        now = torch.randn((count, self.channels, self.size, self.size), generator=draws)
        with torch.inference_mode():
            for step in range(self.steps - 1, -1, -1):
                noise = module(now, torch.full((count,), float(step)) / self.steps * 64)
                clean = ((now - (1 - self.signal[step]).sqrt() * noise) / self.signal[step].sqrt()).clamp(-1, 1)
                # The noise that belongs to the clamped image.
                noise = (now - self.signal[step].sqrt() * clean) / (1 - self.signal[step]).sqrt()
                before = self.signal[step - 1] if step else torch.tensor(1.0)
                now = before.sqrt() * clean + (1 - before).sqrt() * noise
        return [write_png(pixels) for pixels in now.numpy()]

    def _errors(self, module: torch.nn.Module, images: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Squared errors of the predicted noise, summed over pixels: `(n, draws)`, all draws of an image side by side."""
        weight = next(module.parameters())
        images, noise, times = images.to(weight), noise.to(weight), times.to(weight.device)
        signal = self.signal.to(weight)[times][:, :, None, None, None]
        noisy = signal.sqrt() * images[:, None] + (1 - signal).sqrt() * noise
        predicted = module(noisy.flatten(0, 1), times.flatten() / self.steps * 64)
        errors: torch.Tensor = (predicted - noise.flatten(0, 1)).square().flatten(1).sum(dim=1).view(times.shape)
        return errors

    def _image(self, row: int, content: bytes) -> torch.Tensor:
        pixels = read_pixels(row, content, height=self.size, width=self.size, channels=self.channels)
        return torch.from_numpy(pixels)
