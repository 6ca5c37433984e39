"""One live client: who is who from frame to frame, and what is shown of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskfer.footage.track import Boxes, Tracker
from maskfer.inference import Crops, Predictions
from maskfer.release import Release
from services.scoring.pictures import decode_picture
from services.scoring.protocol import CropsFrame, LiveFace, PictureFrame
from services.scoring.scorer import Scorer
from services.scoring.smoothing import FaceSmoother, Shown


@dataclass(frozen=True, slots=True)
class Limits:
    """What one frame may cost."""

    max_pixels: int
    max_faces: int


class LiveSession:
    """Tracks and smooths one client's faces; frames come one after the other, in order of time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tracker = Tracker()
        self._smoothers: dict[int, FaceSmoother] = {}

    def find(self, frame: PictureFrame | CropsFrame, scorer: Scorer) -> Found:
        """Return the faces of a frame; those of a picture are searched for, which takes a while.

        Of a picture with more faces than the limit the most confident count. Raises what `decode_picture`
        raises.
        """
        if isinstance(frame, CropsFrame):
            return Found(frame.boxes, frame.crops, [None] * len(frame.crops))
        image = decode_picture(frame.picture, max_pixels=self._limits.max_pixels)
        detections, crops = scorer.find(image)
        detections, crops = detections[: self._limits.max_faces], crops[: self._limits.max_faces]
        boxes = [(one.box.left, one.box.top, one.box.width, one.box.height) for one in detections]
        return Found(
            np.array(boxes, np.float32).reshape(-1, 4), crops, [one.confidence for one in detections]
        )

    def read(
        self, found: Found, judged: Predictions, release: Release, *, at_s: float, heatmap: bool
    ) -> tuple[LiveFace, ...]:
        """Track and smooth the faces of a frame as `release` judged them; `at_s` is on any steady clock."""
        tracks = self._tracker.update(at_s, found.boxes)
        live = self._tracker.live
        self._smoothers = {track: kept for track, kept in self._smoothers.items() if track in live}
        shown = [
            self._smoothers.setdefault(int(track), FaceSmoother()).update(
                at_s,
                expression=judged.expression[row],
                masked_probability=float(judged.masked[row]),
                orientation=judged.orientation[row],
                heatmap=judged.heatmap[row],
            )
            for row, track in enumerate(tracks)
        ]
        return tuple(
            _face(one, judged, row, track=int(tracks[row]), found=found, release=release, heatmap=heatmap)
            for row, one in enumerate(shown)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The faces of one frame, not judged yet."""

    boxes: Boxes
    crops: Crops
    confidences: Sequence[float | None]


def _face(
    shown: Shown,
    judged: Predictions,
    row: int,
    *,
    track: int,
    found: Found,
    release: Release,
    heatmap: bool,
) -> LiveFace:
    left, top, width, height = found.boxes[row].tolist()
    return LiveFace(
        track=track,
        box=(left, top, width, height),
        confidence=found.confidences[row],
        probabilities=dict(zip(release.classes, shown.expression.tolist(), strict=True)),
        raw=dict(zip(release.classes, judged.expression[row].tolist(), strict=True)),
        expression=release.classes[shown.label],
        masked=shown.masked,
        masked_probability=shown.masked_probability,
        orientation=str(release.orientations[shown.orientation]),
        heatmap=np.round(255.0 * shown.heatmap).astype(np.uint8) if heatmap else None,
    )
