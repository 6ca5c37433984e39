"""A stretch of footage to readings: every face of every sampled frame, found and judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from maskfer.faces.crop import crop_face
from maskfer.faces.detect import SlimeFaceDetector
from maskfer.faces.face import Detection, FaceDetector
from maskfer.footage.decode import Frame, FrameIndices, Video, read_frames
from maskfer.inference import Analyzer, Crops

_CROPS_PER_CALL: Final = 64
"""Faces of several frames share one run of the network; more gains no speed and holds more memory."""
_SEARCH_SIDES_PX: Final = (320, 640)
"""The default detector looks at up to 1280 pixels before it believes that nobody is there. Footage has many
frames without a face: at 960 x 540 such a frame takes 56 ms instead of 138."""


@dataclass(frozen=True, slots=True)
class _Face:
    frame: int
    time_s: float
    detection: Detection


def observation_schema(classes: tuple[str, ...]) -> pa.Schema:
    """Columns of one segment's table: what a frame alone can say of a face."""
    return pa.schema(
        [
            pa.field("frame", pa.int64(), nullable=False),
            pa.field("time_s", pa.float64(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("confidence", pa.float32(), nullable=False),
            *(pa.field(probability_column(name), pa.float32(), nullable=False) for name in classes),
            pa.field("expression", pa.string(), nullable=False),
            pa.field("masked", pa.bool_(), nullable=False),
            pa.field("masked_probability", pa.float32(), nullable=False),
            pa.field("orientation", pa.string(), nullable=False),
        ]
    )


def probability_column(name: str) -> str:
    """Column that holds the probability of a class."""
    return f"probability_{name}"


def footage_detector(*, min_confidence: float = 0.5) -> FaceDetector:
    """Return the detector for footage: the default one, which does not search frames beyond 640 pixels."""
    return SlimeFaceDetector(min_confidence=min_confidence, sides_px=_SEARCH_SIDES_PX)


def score_segment(analyzer: Analyzer, detector: FaceDetector, video: Video, wanted: FrameIndices) -> pa.Table:
    """Return a row per face of the frames `wanted`, ascending by frame, most confident face first.

    Depends on its arguments alone: run twice, it gives the same rows. Raises `VideoError` where the file does
    not decode to the last of them.
    """
    release = analyzer.release
    faces: list[_Face] = []
    crops: list[Crops] = []
    tables: list[pa.Table] = []

    def judge() -> None:
        if crops:
            tables.append(_rows(analyzer, faces, np.stack(crops)))
            faces.clear()
            crops.clear()

    for frame in read_frames(video, wanted):
        for detection in detector.detect(frame.image):
            crop, _ = crop_face(
                frame.image, detection.box, size=release.crop_size, context=release.crop_context
            )
            faces.append(_face(frame, detection))
            crops.append(crop)
        if len(crops) >= _CROPS_PER_CALL:
            judge()
    judge()
    schema = observation_schema(release.classes)
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _face(frame: Frame, detection: Detection) -> _Face:
    return _Face(frame.index, frame.time_s, detection)


def _rows(analyzer: Analyzer, faces: list[_Face], crops: Crops) -> pa.Table:
    release = analyzer.release
    judged = analyzer.predict(crops)
    boxes = [face.detection.box for face in faces]
    columns: dict[str, object] = {
        "frame": [face.frame for face in faces],
        "time_s": [face.time_s for face in faces],
        "box": [[box.left, box.top, box.width, box.height] for box in boxes],
        "confidence": [face.detection.confidence for face in faces],
        **{probability_column(name): judged.expression[:, i] for i, name in enumerate(release.classes)},
        "expression": [release.classes[i] for i in judged.expression.argmax(axis=1)],
        "masked": judged.masked >= 0.5,
        "masked_probability": judged.masked,
        "orientation": [release.orientations[i] for i in judged.orientation.argmax(axis=1)],
    }
    return pa.table(columns, schema=observation_schema(release.classes))
