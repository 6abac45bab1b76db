"""Pictures from disk, from inside a file or from memory, as arrays."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.problems import BadRecord

CACHE_BYTES = 256 * 2**20
ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
# Pillow's decoders let through whatever damaged bytes lead to.
DECODERS_RAISE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
TAIL = 4096  # bytes at the end of a file in which its end mark is looked for


@dataclass(frozen=True)
class ImageSource:
    """Where the bytes of a picture are.

    Attributes:
        path: A file; a URL; or, for bytes in memory, their name.
        offset: First byte in the file.
        size: Number of bytes in the file; None: to its end.
        data: The bytes themselves, where no file holds them.
    """

    path: str
    offset: int = 0
    size: int | None = None
    data: bytes | None = None

    def __str__(self) -> str:
        return self.path if self.size is None else f"{self.path} (bytes {self.offset} to {self.offset + self.size})"

    @property
    def is_url(self) -> bool:
        """Whether the picture has to be fetched first."""
        return self.data is None and self.path.startswith(("http://", "https://"))

    def read(self) -> bytes:
        """The bytes."""
        if self.data is not None:
            return self.data
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)


def load_image(source: ImageSource | str | Path) -> np.ndarray:
    """Decodes a picture to RGB, turned as its EXIF orientation says (as transformers' own loader does).

    Returns:
        uint8 array of shape [height, width, 3].

    Raises:
        FileNotFoundError: There is no such file.
        BadRecord: The file is no picture that Pillow can read in full.
    """
    with _opened(source) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def image_size(source: ImageSource | str | Path) -> tuple[int, int]:
    """Height and width of a picture in pixels as `load_image` gives it, from its header; raises as `load_image` does."""
    with _opened(source) as image:
        return _size(image)


def inspect(source: ImageSource) -> tuple[int, int]:
    """Height and width of a picture, checked as far as that goes without decoding it.

    The header is read; of PNG the checksums of all parts, of JPEG the end mark. Files of other kinds, and JPEG files that end in
    something else, are decoded.

    Raises:
        BadRecord: The picture is missing, empty, broken, truncated or too large.
    """
    if source.data is None and not Path(source.path).is_file():
        raise BadRecord("missing_image", f"image {source} does not exist; write the file, or remove the record")
    with _opened(source) as image:
        found = _size(image)
        if image.format == "PNG":
            image.verify()
        elif image.format != "JPEG" or b"\xff\xd9" not in _tail(source):
            image.load()
    return found


def _size(image: Image.Image) -> tuple[int, int]:
    # PNG's own `getexif` decodes the whole picture to look behind it.
    turned = Image.Image.getexif(image).get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _tail(source: ImageSource) -> bytes:
    if source.data is not None:
        return source.data[-TAIL:]
    with open(source.path, "rb") as file:
        end = os.fstat(file.fileno()).st_size if source.size is None else source.offset + source.size
        file.seek(max(source.offset, end - TAIL))
        return file.read(min(TAIL, end - source.offset))


@contextmanager
def _opened(source: ImageSource | str | Path) -> Iterator[Image.Image]:
    """A picture, opened; what goes wrong with it inside is told with its path."""
    source = source if isinstance(source, ImageSource) else ImageSource(str(source))
    whole_file = source.data is None and source.size is None and source.offset == 0
    try:
        with Image.open(source.path if whole_file else io.BytesIO(source.read())) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except BadRecord:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {source} does not exist; its record names it, so write the file or remove the record") from error
    except Image.DecompressionBombError as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise BadRecord("decompression_bomb", f"image {source} has more than {limit} ({error}); shrink it or remove its record") from error
    except UnidentifiedImageError as error:
        empty = not source.read()[:1]
        kind, what = ("empty_image", "is empty") if empty else ("broken_image", "is of no kind that Pillow can read")
        raise BadRecord(kind, f"image {source} {what}; replace the file or remove its record") from error
    except DECODERS_RAISE as error:
        kind = "truncated_image" if "truncated" in str(error).lower() else "broken_image"
        raise BadRecord(kind, f"image {source} cannot be read ({error}); replace the file or remove its record") from error


class ImageCache:
    """Decoded pictures, kept until `limit` bytes are full: small sets, which a run passes many times, are decoded once."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._images: dict[ImageSource, np.ndarray] = {}

    def __call__(self, source: ImageSource) -> np.ndarray:
        """The picture; see `load_image`."""
        image = self._images.get(source)
        if image is None:
            image = load_image(source)
            if self.bytes + image.nbytes <= self.limit:
                self._images[source] = image
                self.bytes += image.nbytes
        return image
