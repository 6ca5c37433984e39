from __future__ import annotations

import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfer.errors import ImageError, InputError, MaskferError, RequestTooLarge
from services.scoring.pictures import NPY, decode_crops, decode_picture, picture_size
from services.scoring.problems import EmptyRequest, UnsupportedMedia

_PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def _encoded(suffix: str, *options: int, image: np.ndarray = _PICTURE) -> bytes:
    done, content = cv2.imencode(suffix, image, list(options))
    assert done
    return content.tobytes()


def _npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


_FORMATS = {
    "jpeg": _encoded(".jpg"),
    "progressive jpeg": _encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "png": _encoded(".png"),
    "16-bit png": _encoded(".png", image=_PICTURE.astype(np.uint16) * 257),
    "grey png": _encoded(".png", image=_PICTURE[..., 0].copy()),
    "png with alpha": _encoded(".png", image=np.dstack([_PICTURE, _PICTURE[..., 0]])),
    "webp": _encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless webp": _encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
}


@pytest.mark.parametrize("content", _FORMATS.values(), ids=_FORMATS.keys())
def test_size_is_read_from_the_header_and_the_picture_comes_as_bgr(content: bytes) -> None:
    assert picture_size(content) == (64, 48)
    image = decode_picture(content, max_pixels=64 * 48)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("content", _FORMATS.values(), ids=_FORMATS.keys())
def test_a_picture_over_the_limit_is_refused(content: bytes) -> None:
    with pytest.raises(RequestTooLarge, match=r"64 x 48 is 3,072 pixels, the limit is 3,071"):
        decode_picture(content, max_pixels=64 * 48 - 1)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(RequestTooLarge, match="60000 x 60000"):
        decode_picture(_png_that_claims(60_000, 60_000), max_pixels=50_000_000)


@pytest.mark.parametrize(
    "content", [b"GIF89a" + b"\0" * 40, b"BM" + b"\0" * 60, b"hello", b'{"image": "http://x"}']
)
def test_other_formats_are_unsupported(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="no JPEG, PNG or WebP"):
        decode_picture(content, max_pixels=1000)


@pytest.mark.parametrize("content", _FORMATS.values(), ids=_FORMATS.keys())
def test_a_header_that_breaks_off_is_a_bad_picture(content: bytes) -> None:
    for length in (12, 20, 24):
        with pytest.raises((ImageError, InputError)):
            decode_picture(content[:length], max_pixels=10_000)


@settings(max_examples=300, deadline=None)
@given(
    magic=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", NPY, b""]),
    tail=st.binary(max_size=200),
)
def test_no_bytes_raise_anything_but_an_error_for_the_user(magic: bytes, tail: bytes) -> None:
    for decode in (
        lambda: decode_picture(magic + tail, max_pixels=10_000),
        lambda: decode_crops([magic + tail], size=8, max_crops=4),
    ):
        with contextlib.suppress(MaskferError):
            decode()


def test_crops_come_as_one_array_or_as_pictures() -> None:
    grey = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    assert np.array_equal(decode_crops([_npy(grey)], size=8, max_crops=2), grey)
    picture = _encoded(".png", image=np.dstack([grey[0]] * 3))
    assert decode_crops([picture, picture], size=8, max_crops=2).shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((1, 8, 9), np.uint8), r"uint8 \[1, 8, 9\], expected uint8 \[n, 8, 8\]"),
        (np.zeros((1, 8, 8), np.float32), r"got float32"),
        (np.asfortranarray(np.zeros((2, 8, 8), np.uint8)), "Fortran order"),
        (np.zeros((), np.uint8), r"got uint8 \[\]"),
        (np.array([{"a": 1}], dtype=object), "got object"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(array: np.ndarray, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        decode_crops([_npy(array, allow_pickle=True)], size=8, max_crops=4)


def test_too_many_none_and_half_an_array_are_refused() -> None:
    with pytest.raises(RequestTooLarge, match="got 5, the limit is 4"):
        decode_crops([_npy(np.zeros((5, 8, 8), np.uint8))], size=8, max_crops=4)
    with pytest.raises(EmptyRequest):
        decode_crops([_npy(np.zeros((0, 8, 8), np.uint8))], size=8, max_crops=4)
    with pytest.raises(ImageError, match="holds 54 bytes after its header, expected 64"):
        decode_crops([_npy(np.zeros((1, 8, 8), np.uint8))[:-10]], size=8, max_crops=4)


def test_a_crop_of_another_size_names_itself() -> None:
    good = _encoded(".png", image=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="crop 1: is 64 x 48 pixels, expected 8 x 8"):
        decode_crops([good, _FORMATS["jpeg"]], size=8, max_crops=4)
