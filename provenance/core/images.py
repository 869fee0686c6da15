"""Contents that are image files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from provenance.core.errors import ExampleError, in_batch


def open_image(row: int, content: bytes) -> Any:
    """Decode the content of a row of a batch as a Pillow image; ExampleError if it is not a whole image file."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError as error:
        raise ExampleError(in_batch(row), expected="an image file", found=f"{content[:16]!r}...") from error
    except OSError as error:
        raise ExampleError(in_batch(row), expected="a whole image file", found=str(error)) from error
    return image


def read_pixels(row: int, content: bytes, *, height: int, width: int, channels: int) -> np.ndarray:
    """The pixels of an image file, `(channels, height, width)` float32 in [-1, 1].

    Args:
        row: of the batch, for errors.
        channels: 1 (grey) or 3 (colour).

    Raises:
        ExampleError: the image has another size, or would lose colour or transparency.
    """
    from PIL import ImageChops

    where, stored = in_batch(row), open_image(row, content)
    image = stored.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        raise ExampleError(where, expected=f"{width} x {height} pixels", found=f"{image.width} x {image.height}")
    if ImageChops.difference(image.convert("RGBA"), stored.convert("RGBA")).getbbox(alpha_only=False):
        expected = f"an opaque {'grey' if channels == 1 else 'colour'} image, for channels = {channels}"
        raise ExampleError(where, expected=expected, found=f"one of mode {stored.mode} that would lose by it")
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, channels) / np.float32(127.5) - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def write_png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels `(channels, height, width)` in [-1, 1], as `read_pixels` reads it."""
    from PIL import Image

    values = ((pixels.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).save(file, format="PNG")
    return file.getvalue()


def write_preview(image: Any, largest: int) -> bytes:
    """A PNG file of an opened image, no longer than `largest` pixels on a side and without its metadata."""
    smaller = image.convert("RGBA" if image.has_transparency_data else "RGB")
    smaller.thumbnail((largest, largest))
    file = io.BytesIO()
    smaller.save(file, format="PNG", optimize=True)
    return file.getvalue()
