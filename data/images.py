"""Pictures from disk, as arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

CACHE_BYTES = 256 * 2**20


def load_image(path: str | Path) -> np.ndarray:
    """Decodes a picture to RGB.

    Returns:
        uint8 array of shape [height, width, 3].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no picture that Pillow can read in full.
    """
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture in pixels, from its header; raises as `load_image` does."""
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """A picture's file, opened; what goes wrong with it inside is told with its path."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {path} does not exist; its record names it, so write the file or remove the record") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"image {path} cannot be read ({error}); replace the file or remove its record") from error


class ImageCache:
    """Decoded pictures, kept until `limit` bytes are full: small sets, which a run passes many times, are decoded once."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._images: dict[str, np.ndarray] = {}

    def __call__(self, path: str) -> np.ndarray:
        """The picture at `path`; see `load_image`."""
        image = self._images.get(path)
        if image is None:
            image = load_image(path)
            if self.bytes + image.nbytes <= self.limit:
                self._images[path] = image
                self.bytes += image.nbytes
        return image
