from __future__ import annotations

import contextlib
import io
import resource
import struct
import time
import zipfile
import zlib

import cv2
import numpy as np
import PIL.Image
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


_CORNERS = np.zeros((40, 64, 3), np.uint8)
_CORNERS[:20, :32] = (0, 0, 255)  # red, top left
_CORNERS[:20, 32:] = (0, 255, 0)  # green, top right
_CORNERS[20:, :32] = (255, 0, 0)  # blue, bottom left; bottom right is black
_TURNED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}
"""What a viewer shows of a picture with each EXIF orientation (TIFF 6.0, tag 274)."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", _TURNED)
def test_a_picture_is_turned_as_its_exif_says(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    content = _saved(PIL.Image.fromarray(_CORNERS[..., ::-1]), kind, exif=exif, lossless=True, quality=95)
    image = decode_picture(content, max_pixels=64 * 40)
    shown = _TURNED[orientation](_CORNERS)
    assert image.shape == shown.shape
    # The middle of each quarter: JPEG's blocks do not reach it.
    height, width = shown.shape[:2]
    for row, column in ((1, 1), (1, 3), (3, 1), (3, 3)):
        place = height * row // 4, width * column // 4
        assert image[place] == pytest.approx(shown[place].astype(int), abs=12), (orientation, row, column)


def test_sixteen_bits_become_eight() -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 7
    image = decode_picture(_encoded(".png", image=wide), max_pixels=256)
    assert np.abs(image[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_cmyk_becomes_bgr() -> None:
    content = _saved(PIL.Image.fromarray(_CORNERS[..., ::-1]).convert("CMYK"), "JPEG", quality=95)
    image = decode_picture(content, max_pixels=64 * 40).astype(int)
    assert image[10, 16] == pytest.approx([0, 0, 255], abs=40)
    assert image[30, 16] == pytest.approx([255, 0, 0], abs=40)
    assert image[30, 48] == pytest.approx([0, 0, 0], abs=40)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [PIL.Image.fromarray(np.full((40, 64, 3), level, np.uint8)) for level in (200, 100, 0)]
    content = _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    image = decode_picture(content, max_pixels=64 * 40)
    assert image.shape == (40, 64, 3)
    assert (image == 200).all()


def test_an_animated_gif_is_unsupported() -> None:
    frames = [PIL.Image.fromarray(np.full((40, 64, 3), level, np.uint8)) for level in (200, 100)]
    with pytest.raises(UnsupportedMedia):
        decode_picture(_saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), max_pixels=10_000)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_what_lies_behind_a_picture_plays_no_part(name: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>")
    alone = decode_picture(_FORMATS[name], max_pixels=10_000)
    assert np.array_equal(decode_picture(_FORMATS[name] + archive.getvalue(), max_pixels=10_000), alone)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"IDAT"])
def test_bytes_that_unpack_to_more_than_the_picture_are_not_unpacked(kind: bytes) -> None:
    # 60 MB that take 60 kB: as a comment, as a colour profile, as more pixels than the header states.
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(10**6)) for _ in range(60)) + packer.flush()
    plain = _FORMATS["png"]
    end_of_head = 8 + 25
    data = bomb if kind == b"IDAT" else b"x\0\0" + bomb
    content = plain[:end_of_head] + _chunk(kind, data) + plain[end_of_head:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ImageError):
        assert decode_picture(content, max_pixels=10_000).shape == (48, 64, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


def test_a_jpeg_with_a_second_and_larger_size_is_refused() -> None:
    plain = _FORMATS["jpeg"]
    at = plain.index(b"\xff\xc0")
    frame = plain[at : at + 19]
    larger = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    content = plain[: at + 19] + larger + plain[at + 19 :]
    assert picture_size(content) == (64, 48)
    with pytest.raises(ImageError):
        decode_picture(content, max_pixels=10_000)


@pytest.mark.parametrize("before", [b"\xff\xe0\0\2" * 200, b"\xff" * 1_000, b"\xff\xed\0\x0ametadata" * 200])
def test_what_stands_before_the_size_of_a_jpeg_is_passed_over(before: bytes) -> None:
    content = _FORMATS["jpeg"][:2] + before + _FORMATS["jpeg"][2:]
    assert picture_size(content) == (64, 48)
    assert decode_picture(content, max_pixels=64 * 48).shape == (48, 64, 3)


@pytest.mark.parametrize(
    "endless", [b"\xff", b"\xff\xe0\0\2", b"\xff\xe0\0\0", b"\xff\xd0", b"\xff\xff\xff\x01"]
)
def test_of_a_jpeg_of_megabytes_without_a_size_only_the_start_is_read(endless: bytes) -> None:
    content = b"\xff\xd8\xff" + endless * (4 * 2**20 // len(endless))
    started_s = time.thread_time()
    with pytest.raises(ImageError, match="header"):
        picture_size(content)
    assert time.thread_time() - started_s < 0.1  # it takes a hundredth; marker by marker, four tenths


def test_a_webp_whose_canvas_is_smaller_than_its_picture_is_refused() -> None:
    body = _FORMATS["webp"][12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (7).to_bytes(3, "little") * 2
    content = b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(body)) + b"WEBP" + canvas + body
    assert picture_size(content) == (8, 8)
    with pytest.raises(ImageError):
        decode_picture(content, max_pixels=100)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 300 + "}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os'),), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 99 + ",), }" + " " * 60_000,
        "-" * 9_000 + "1",
    ],
)
@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
def test_a_header_that_is_code_is_not_read(header: str, version: bytes) -> None:
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    with pytest.raises(ImageError, match="header does not parse"):
        decode_crops([NPY + version + length + header.encode()], size=8, max_crops=4)


def test_arrays_of_every_npy_version_are_read() -> None:
    crops = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    for version in ((1, 0), (2, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, crops, version=version)
        assert np.array_equal(decode_crops([file.getvalue()], size=8, max_crops=2), crops)


def _saved(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
