"""Stage `align`: every record's picture becomes a face: detected, landmarked, cut, its orientation named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from maskfer import atomic
from maskfer.config import DataParams, Params
from maskfer.data import rejects as rejected
from maskfer.data.ingest import Record
from maskfer.data.rejects import Reject
from maskfer.data.table import FILE_NAME, encode_image, write_faces
from maskfer.errors import DatasetError
from maskfer.faces.crop import crop_face
from maskfer.faces.detect import default_detector, primary_face
from maskfer.faces.face import FaceDetector, Image
from maskfer.faces.landmarks import DlibLandmarks
from maskfer.faces.orientation import orientation_of
from maskfer.parallel import map_in_processes
from maskfer.stages.ingest import read_records

STAGE: Final = "align"
_HOLDS: Final = (FILE_NAME, rejected.FILE_NAME)


@dataclass(frozen=True, slots=True)
class AlignReport:
    """Counts that add up: images = faces + rejected."""

    faces: int
    rejected: int
    orientations: Mapping[str, int]

    @property
    def images(self) -> int:
        """Records that came in."""
        return self.faces + self.rejected


def run(records: Path, out: Path, *, raw: Path, params: Params, workers: int | None = None) -> AlignReport:
    """Read `records/records.parquet` and the pictures in `raw`; write `out/faces.parquet`, `out/rejects.csv`.

    One face is kept of each picture, the most prominent. What `records/rejects.csv` lists stays listed. The
    same input gives the same bytes for any number of workers. Raises `DatasetError` when no picture shows a
    face, and `InputError` where `out` holds other files or one of the inputs.
    """
    atomic.check_replaceable(out, holds=_HOLDS, inputs=(records, raw))
    items, earlier = read_records(records), rejected.read_rejects(records / rejected.FILE_NAME)
    results = map_in_processes(
        partial(align_face, raw=raw, data=params.data), items, title="align", workers=workers
    )
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    for item, result in zip(items, results, strict=True):
        if isinstance(result, str):
            rejects.append(Reject(item.image, STAGE, result))
        else:
            rows.append(result)
    if not rows:
        reasons = "; ".join(sorted({reject.reason for reject in rejects}))
        raise DatasetError(f"{raw}: none of {len(items)} images gives a face: {reasons or 'no records'}")
    assert len(rows) + len(rejects) == len(items)
    data = params.data
    metadata = {"crop_size": data.crop_size, "crop_context": data.crop_context, "seed": params.seed}
    with atomic.new_folder(out, holds=_HOLDS) as work:
        write_faces(work / FILE_NAME, rows, metadata=metadata)
        rejected.write_rejects(work / rejected.FILE_NAME, [*earlier, *rejects])
    return AlignReport(
        faces=len(rows),
        rejected=len(rejects),
        orientations=Counter(row["orientation"] for row in rows),
    )


def align_face(record: Record, *, raw: Path, data: DataParams) -> dict[str, Any] | str:
    """Turn one record into its row of the faces table, or into the reason why it has none."""
    image = _read(raw / record.image)
    if image is None:
        return "the file does not decode as a picture"
    detector, predictor = _tools(data.min_confidence)
    detection = primary_face(detector.detect(image), image)
    if detection is None:
        return "no face found"
    landmarks = predictor.predict_checked(image, detection)
    box = detection.box
    crop, frame = crop_face(image, box, size=data.crop_size, context=data.crop_context)
    return {
        "face_id": record.sha256[:16],
        "source": record.image,
        "source_sha256": record.sha256,
        "person": record.person,
        "emotion": record.emotion,
        "expression": record.expression,
        "split": record.split,
        "is_masked": record.is_masked,
        "mask_origin": "real" if record.is_masked else "none",
        "orientation": orientation_of(landmarks).value,
        "confidence": detection.confidence,
        "box": [box.left, box.top, box.width, box.height],
        "landmarks": frame.to_crop(landmarks).ravel().tolist(),
        "image": encode_image(crop, quality=data.image_quality),
    }


@cache
def _tools(min_confidence: float) -> tuple[FaceDetector, DlibLandmarks]:
    """Load the detector and the landmarks once in each process."""
    return default_detector(min_confidence=min_confidence), DlibLandmarks()


def _read(path: Path) -> Image | None:
    try:
        encoded = np.fromfile(path, np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except (OSError, cv2.error):  # cv2.error: more pixels than OpenCV is willing to decode
        return None
    return None if image is None else np.asarray(image, np.uint8)
