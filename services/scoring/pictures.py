"""Bytes of a request to arrays: never more decoded than the limits allow, never anything executed.

The size is read from the file's header before a pixel is decoded, so a decompression bomb stays compressed.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np

from maskfer.errors import ImageError, InputError, RequestTooLarge
from maskfer.faces.face import Image
from maskfer.inference import Crops
from services.scoring.problems import EmptyRequest, UnsupportedMedia

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
NPY: Final = b"\x93NUMPY"
_NPY_HEADER_BYTES: Final = 10_000
_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[A-Za-z]\d{0,9})', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,100})\), ?\} *\n?"
)
"""What `numpy.save` writes; of the types those that are a letter and a size."""
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that state the picture's size (SOF0-15 without DHT, JPG, DAC)."""
_MAX_MARKERS: Final = 1_000
"""Markers of a JPEG that are looked at for it: a colour profile takes 255 at most.

Megabytes of empty segments would keep every other request waiting for half a second.
"""
_FILL: Final = re.compile(rb"\xff+")
"""What may stand before a JPEG marker, with the marker's first byte."""


def decode_picture(content: bytes, *, max_pixels: int) -> Image:
    """Decode a JPEG, PNG or WebP to BGR, turned as its EXIF says; of an animation, the first frame.

    Raises `UnsupportedMedia` for other formats, `RequestTooLarge` over `max_pixels`, `ImageError` where it
    does not decode.
    """
    if not content:
        raise EmptyRequest("request body: empty; send a JPEG, PNG or WebP picture")
    width, height = picture_size(content)
    if width < 1 or height < 1:
        raise ImageError(f"picture: its header states {width} x {height} pixels; send a whole picture")
    if width * height > max_pixels:
        raise RequestTooLarge(
            f"picture: {width} x {height} is {width * height:,} pixels, the limit is {max_pixels:,}; "
            "send a smaller one"
        )
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError("picture: does not decode; send a whole JPEG, PNG or WebP") from error
    if image is None:
        raise ImageError("picture: does not decode; send a whole JPEG, PNG or WebP")
    if sorted(image.shape[:2]) != sorted((height, width)):  # sorted: EXIF may turn it
        raise ImageError(
            f"picture: its header states {width} x {height} pixels, it holds {image.shape[1]} x "
            f"{image.shape[0]}; send a whole JPEG, PNG or WebP"
        )
    return np.asarray(image, np.uint8)


def picture_size(content: bytes) -> tuple[int, int]:
    """Return width and height in pixels as the header of a JPEG, PNG or WebP states them.

    Raises `UnsupportedMedia` for other formats and `ImageError` for a header that breaks off.
    """
    try:
        if content.startswith(_JPEG):
            return _jpeg_size(content)
        if content.startswith(_PNG):
            if content[12:16] != b"IHDR":
                raise ImageError("picture: its PNG header is damaged; send a whole picture")
            width, height = struct.unpack(">II", content[16:24])
            return int(width), int(height)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp_size(content)
    except (struct.error, IndexError) as error:
        raise ImageError("picture: its header breaks off; send a whole JPEG, PNG or WebP") from error
    raise UnsupportedMedia("request body: is no JPEG, PNG or WebP picture; convert it to one of these")


def decode_crops(parts: Sequence[bytes], *, size: int, max_crops: int) -> Crops:
    """Return the crops of a request: one NumPy array of them, or one picture each.

    Raises `RequestTooLarge` over `max_crops`, `InputError` where one is not `size` x `size`, and what
    `decode_picture` raises.
    """
    if not parts:
        raise EmptyRequest(f"request body: empty; send {size} x {size} crops as .npy or as pictures")
    if len(parts) == 1 and parts[0].startswith(NPY):
        return _decode_npy(parts[0], size=size, max_crops=max_crops)
    if len(parts) > max_crops:
        raise _too_many(len(parts), max_crops)
    for number, part in enumerate(parts):
        width, height = picture_size(part)
        if (width, height) != (size, size):
            raise InputError(
                f"crop {number}: is {width} x {height} pixels, expected {size} x {size}; "
                "cut it with maskfer.faces.crop.crop_face, or send the whole picture to /analyze"
            )
    crops = [decode_picture(part, max_pixels=size * size) for part in parts]
    return np.stack(crops)


def _decode_npy(content: bytes, *, size: int, max_crops: int) -> Crops:
    shape, fortran_order, dtype, start = _npy_header(content)
    if dtype != np.uint8 or fortran_order or shape[1:] not in {(size, size), (size, size, 3)}:
        raise InputError(
            f"crops: got {dtype} {list(shape)}{' in Fortran order' if fortran_order else ''}, expected uint8 "
            f"[n, {size}, {size}] grey or [n, {size}, {size}, 3] BGR"
        )
    if shape[0] < 1:
        raise EmptyRequest("crops: got an array of none; send at least one")
    if shape[0] > max_crops:
        raise _too_many(shape[0], max_crops)
    pixels = content[start:]
    count = math.prod(shape)
    if len(pixels) != count:
        raise ImageError(
            f"crops: the .npy holds {len(pixels)} bytes after its header, expected {count}; "
            "send the whole file"
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _npy_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order and type as the header of a .npy states them, and where the values begin.

    NumPy's own reader hands the header to Python's parser, which a few hundred brackets bring to its knees.
    """
    size = "<H" if content[6:7] == b"\1" else "<I"
    try:
        (length,) = struct.unpack_from(size, content, len(NPY) + 2)
        start = len(NPY) + 2 + struct.calcsize(size) + int(length)
        found = _NPY_HEADER.fullmatch(content, start - int(length), start)
        if found is None or length > _NPY_HEADER_BYTES or start > len(content):
            raise ValueError("no header that numpy.save writes")
        shape = tuple(int(number) for number in found["shape"].decode().split(",") if number.strip())
        return shape, found["order"] == b"True", np.dtype(found["descr"].decode()), start
    except (ValueError, TypeError, struct.error) as error:
        raise ImageError("crops: the .npy header does not parse; write the array with numpy.save") from error


def _too_many(got: int, limit: int) -> InputError:
    return RequestTooLarge(f"crops: got {got}, the limit is {limit}; send them in several requests")


def _jpeg_size(content: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MAX_MARKERS):
        fill = _FILL.match(content, at)
        if fill is None:
            raise ImageError("picture: its JPEG header is damaged; send a whole picture")
        at = fill.end() - 1
        marker = content[at + 1]
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return int(width), int(height)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # stand alone, without a length
            at += 2
            continue
        (length,) = struct.unpack(">H", content[at + 2 : at + 4])
        at += 2 + max(int(length), 2)
    raise ImageError("picture: its JPEG header states no size; send a whole picture")


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        canvas = content[24:30]
        return int.from_bytes(canvas[:3], "little") + 1, int.from_bytes(canvas[3:6], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", content[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", content[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise ImageError(f"picture: WebP chunk {_printable(kind)} where the size should be; send a whole picture")


def _printable(raw: bytes) -> str:
    return re.sub(r"[^A-Za-z0-9 ]", "?", raw.decode("latin-1"))
