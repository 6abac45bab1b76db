"""Pictures as files hold them, good ones, broken ones."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import ImageCache, ImageSource, image_size, inspect, load_image
from data.problems import BadRecord

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def content(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_from_a_file_from_inside_one_or_from_memory(tmp_path: Path, kind: str) -> None:
    data = content(kind)
    file, shard = tmp_path / "a", tmp_path / "shard"
    file.write_bytes(data)
    shard.write_bytes(b"before" + data + b"behind")
    sources = [ImageSource(str(file)), ImageSource(str(shard), 6, len(data)), ImageSource("embedded", data=data)]
    first, *others = [load_image(source) for source in sources]
    assert first.shape == (30, 40, 3)
    assert all(np.array_equal(first, other) for other in others)
    assert [inspect(source) for source in sources] == [(30, 40)] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_a_truncated_picture_is_found_without_training_on_it(tmp_path: Path, kind: str, keep: float) -> None:
    data = content(kind)
    (tmp_path / "half").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BadRecord) as error:
        inspect(ImageSource(str(tmp_path / "half")))
    assert error.value.kind in ("truncated_image", "broken_image")


def test_one_wrong_byte_in_a_png_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(content("PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadRecord, match="checksum") as error:
        inspect(ImageSource("embedded", data=bytes(data)))
    assert error.value.kind == "broken_image"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(None, "missing_image"), (b"", "empty_image"), (b"<html>404</html>", "broken_image"), (b"\x89PNG\r\n", "broken_image")],
)
def test_what_is_no_picture_is_told_by_kind(tmp_path: Path, data: bytes | None, kind: str) -> None:
    if data is not None:
        (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(BadRecord, match=r"x\.png") as error:
        inspect(ImageSource(str(tmp_path / "x.png")))
    assert error.value.kind == kind


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    source = ImageSource("embedded", data=content("PNG"))
    for read in (inspect, image_size, load_image):
        with pytest.raises(BadRecord, match="40 x 30 pixels") as error:
            read(source)
        assert error.value.kind == "decompression_bomb"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_stands_as_its_camera_was_held_in_header_and_pixels_alike(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = ImageSource("embedded", data=content(kind, exif=exif))
    assert load_image(source).shape == (40, 30, 3)
    assert image_size(source) == inspect(source) == (40, 30)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("I;16" if mode == "I;16" else "RGB", (8, 6)).convert(mode).save(path)
    assert load_image(path).shape == (6, 8, 3)


def test_pillow_is_not_asked_to_decode_a_good_jpeg_or_png(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    for kind in ("JPEG", "PNG"):
        assert inspect(ImageSource("embedded", data=content(kind))) == (30, 40)


def test_the_cache_holds_no_more_than_its_limit(tiny_data: Path) -> None:
    cache = ImageCache(limit=2 * 64 * 64 * 3)
    sources = [ImageSource(str(tiny_data.parent / "images" / name)) for name in ("0.png", "1.png", "2.png", "0.png")]
    for source in sources:
        assert np.array_equal(cache(source), load_image(source))
    assert cache.bytes == cache.limit


@pytest.mark.parametrize("problem", [struct.error, RuntimeError, TypeError, NotImplementedError, KeyError, ZeroDivisionError])
def test_whatever_a_decoder_raises_is_told_as_a_broken_picture(problem: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageOps

    def fail(*_: object) -> None:
        raise problem("damaged")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(BadRecord, match="damaged") as error:
        load_image(ImageSource("embedded", data=content("JPEG")))
    assert error.value.kind == "broken_image"
