"""Faces of consecutive frames to tracks: who is the same person from one sampled frame to the next.

`Tracker` takes frames as they come, for a camera. `assign_tracks` runs it over the boxes of a whole file once
all segments are there, so that a track's number does not depend on how the file was cut. Position and size
only, no identity: who leaves and comes back later is a new track.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

MAX_GAP_S: Final = 1.0
"""A face unseen for longer starts a new track, where frames are judged often enough (`max_gap_s`)."""
_MIN_OVERLAP: Final = 0.1
"""Intersection over union from which two boxes are the same face."""
_MAX_STEP: Final = 0.75
"""Between sampled frames a centre may move by this many box sides even where the boxes part."""
_MAX_GROWTH: Final = 2.0
"""Ratio of two sides above which two boxes are not the same face."""

Boxes = Float32[np.ndarray, "n 4"]
"""left, top, width, height in pixels."""


@dataclass(slots=True)
class _Track:
    number: int
    box: Float32[np.ndarray, " 4"]
    time_s: float


class Tracker:
    """Numbers tracks from 0 in order of appearance; frames must come in order of time.

    Within a frame the closest pairs of face and track are joined first, so the order of a frame's boxes
    decides nothing but the numbers of tracks that start in it.
    """

    def __init__(self, *, max_gap_s: float = MAX_GAP_S) -> None:
        self._max_gap_s = max_gap_s
        self._live: list[_Track] = []
        self._started = 0

    @property
    def live(self) -> frozenset[int]:
        """Numbers of the tracks that a face of a next frame may join."""
        return frozenset(track.number for track in self._live)

    def update(self, time_s: float, boxes: Boxes) -> Int32[np.ndarray, " n"]:
        """Take the faces of one frame and return the track of each."""
        self._live = [track for track in self._live if time_s - track.time_s <= self._max_gap_s]
        joined = _pair(boxes, self._live)
        numbers = np.empty(len(boxes), np.int32)
        for position, box in enumerate(boxes):
            track = joined.get(position)
            if track is None:
                track = _Track(self._started, box, time_s)
                self._started += 1
                self._live.append(track)
            track.box, track.time_s = box, time_s
            numbers[position] = track.number
        return numbers


def max_gap_s(*, sample_fps: float | None, fps: float) -> float:
    """Return the longest time unseen that a track outlives in a file of `fps`, judged `sample_fps` a second.

    `MAX_GAP_S`, but never less than one and a half of the longest steps between judged frames: a face that is
    seen in every one of them is not torn apart. `sample_fps` None means every frame is judged; `fps` 0 is a
    file of one frame.
    """
    between_ticks_s = 1.0 / sample_fps if sample_fps else 0.0
    to_next_frame_s = 1.0 / fps if fps else 0.0
    return max(MAX_GAP_S, 1.5 * (between_ticks_s + to_next_frame_s))


def assign_tracks(
    frames: Int64[np.ndarray, " n"],
    times_s: Float64[np.ndarray, " n"],
    boxes: Boxes,
    *,
    max_gap_s: float = MAX_GAP_S,
) -> Int32[np.ndarray, " n"]:
    """Return the track of every face of a file as `Tracker` numbers them; rows must be ascending by frame."""
    tracks = np.empty(len(frames), np.int32)
    tracker = Tracker(max_gap_s=max_gap_s)
    starts = np.flatnonzero(np.diff(frames, prepend=-1))
    for rows in np.split(np.arange(len(frames)), starts[1:]) if len(frames) else []:
        tracks[rows] = tracker.update(float(times_s[rows[0]]), boxes[rows])
    return tracks


def _pair(boxes: Boxes, live: list[_Track]) -> dict[int, _Track]:
    """Join boxes and tracks one to one, closest first; what is too far apart stays single."""
    if not live:
        return {}
    closeness = _closeness(boxes, np.stack([track.box for track in live]))
    joined: dict[int, _Track] = {}
    taken: set[int] = set()
    # A stable sort: equal pairs are joined in the order of rows, on every machine.
    for flat in np.argsort(-closeness, axis=None, kind="stable"):
        box, track = divmod(int(flat), len(live))
        if closeness[box, track] <= 0.0:
            break
        if box not in joined and track not in taken:
            joined[box] = live[track]
            taken.add(track)
    return joined


def _closeness(boxes: Boxes, others: Boxes) -> Float32[np.ndarray, "n m"]:
    """How near two boxes are: above 1 where they overlap, in (0, 1] where they are a step apart, else 0."""
    a, b = boxes[:, None, :], others[None, :, :]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.prod(np.clip(high - low, 0.0, None), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - intersection
    overlap = intersection / np.maximum(union, 1e-6)
    sides_a, sides_b = np.max(a[..., 2:], axis=-1), np.max(b[..., 2:], axis=-1)
    larger, smaller = np.maximum(sides_a, sides_b), np.maximum(np.minimum(sides_a, sides_b), 1e-6)
    centers = a[..., :2] + a[..., 2:] / 2 - b[..., :2] - b[..., 2:] / 2
    steps = np.linalg.norm(centers, axis=-1) / np.maximum(smaller, 1e-6)
    near = np.where(steps < _MAX_STEP, 1.0 - steps / _MAX_STEP, 0.0)
    closeness = np.where(overlap >= _MIN_OVERLAP, 1.0 + overlap, near)
    return np.where(larger / smaller <= _MAX_GROWTH, closeness, 0.0).astype(np.float32)
