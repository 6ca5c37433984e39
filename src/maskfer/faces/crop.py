"""The square that a model sees, cut from the detector's box alone.

Landmarks play no part: they are unreliable under a mask, and a crop has to be the same in training as in
serving.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from maskfer.faces.face import Box, Image, Points


@dataclass(frozen=True, slots=True)
class CropFrame:
    """Where a crop lies in its picture; converts points both ways."""

    left: int
    """Picture column of the crop's left edge; negative where the crop reaches over the picture's edge."""
    top: int
    side: int
    """Side of the square in the picture, pixels."""
    size: int
    """Side of the crop, pixels."""

    def to_crop(self, points: Points) -> Points:
        """Map picture pixels to crop pixels."""
        scale = np.float32(self.size / self.side)
        origin = np.array([self.left, self.top], np.float32)
        # Pixel centres are whole numbers, so edges lie half a pixel before them.
        return ((points - origin + np.float32(0.5)) * scale - np.float32(0.5)).astype(np.float32)

    def to_image(self, points: Points) -> Points:
        """Map crop pixels to picture pixels."""
        scale = np.float32(self.side / self.size)
        origin = np.array([self.left, self.top], np.float32)
        return ((points + np.float32(0.5)) * scale - np.float32(0.5) + origin).astype(np.float32)


def crop_face(image: Image, box: Box, *, size: int, context: float) -> tuple[Image, CropFrame]:
    """Cut the square around the box's centre whose side is `context` x the box's longer side.

    The result has `size` x `size` pixels; the picture's border is repeated where the square reaches over it.
    """
    # Whole pixels keep the cut exact; the detector's boxes are whole pixels too.
    side = max(1, round(context * max(box.width, box.height)))
    center_x, center_y = box.center
    frame = CropFrame(left=round(center_x - side / 2), top=round(center_y - side / 2), side=side, size=size)
    square = _cut(image, frame)
    shrinks = side > size
    crop = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return crop.astype(np.uint8, copy=False), frame


def _cut(image: Image, frame: CropFrame) -> Image:
    height, width = image.shape[:2]
    right, bottom = frame.left + frame.side, frame.top + frame.side
    if frame.left >= 0 and frame.top >= 0 and right <= width and bottom <= height:
        return image[frame.top : bottom, frame.left : right]
    rows = np.clip(np.arange(frame.top, bottom), 0, height - 1)
    columns = np.clip(np.arange(frame.left, right), 0, width - 1)
    # What of the picture is in it first: whole rows of a wide picture would be many times the square.
    seen = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    square: Image = seen[rows - rows[0]][:, columns - columns[0]]
    return square


def without_color(
    crops: UInt8[np.ndarray, "n s s"] | UInt8[np.ndarray, "n s s 3"],
) -> UInt8[np.ndarray, "n s s"]:
    """Turn crops, grey or BGR, to grey; what is grey already is not copied."""
    if crops.ndim == 3:
        return crops
    grey = np.empty(crops.shape[:3], np.uint8)
    for crop, out in zip(crops, grey, strict=True):
        cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY, dst=out)
    return grey


def model_input(
    crops: UInt8[np.ndarray, "n s s"] | UInt8[np.ndarray, "n s s 3"],
) -> Float32[np.ndarray, "n 1 s s"]:
    """Turn crops (grey or BGR) into what every model takes: grey, 0..255; the graph itself normalises."""
    return without_color(crops)[:, None].astype(np.float32)
