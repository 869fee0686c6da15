"""Contents that are image files."""

from __future__ import annotations

import io
from typing import Any

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
