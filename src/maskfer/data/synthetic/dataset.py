"""A labelled folder of synthetic faces, and a clip of one: material that is ours, for demos and tests."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from maskfer import atomic
from maskfer.data.synthetic.head import draw_face
from maskfer.data.synthetic.person import TURN_DEGREES, Person, Pose, Scene, blend
from maskfer.errors import InputError
from maskfer.labels import EXPRESSIONS, ORIENTATIONS, Orientation

IMAGE_SIZE = 192
_TEST_PEOPLE = 0.25
_HOLD_S = 1.2
"""How long a pose of the clip takes to reach the next, seconds."""


@dataclass(frozen=True, slots=True)
class SyntheticFace:
    """One picture's labels and truth."""

    image: str
    person: str
    expression: str
    orientation: str
    split: str
    landmarks: tuple[float, ...]


def write_synthetic_dataset(
    out: Path, *, people: int, per_person: int, seed: int, workers: int | None = None
) -> Iterator[SyntheticFace]:
    """Draw `people * per_person` pictures into `out/images`, with `labels.csv` and `truth.csv`; yields each.

    Expressions and orientations are spread evenly over each person's pictures; a quarter of the people are
    the test split. `truth.csv` has the orientation and the 68 landmarks (pixels, iBUG-68 order). The folder
    appears when the last picture is drawn; the same seed gives the same bytes for any number of workers.
    Raises `InputError` where `out` holds anything.
    """
    with atomic.new_folder(out, holds=()) as work:
        (work / "images").mkdir()
        jobs = [(work / "images", index, per_person, people, seed) for index in range(people)]
        faces: list[SyntheticFace] = []
        # spawn: a forked child would inherit OpenCV's threads in an unknown state.
        with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for drawn in pool.map(_draw_person, jobs):
                faces += drawn
                yield from drawn
        _write_csv(work / "labels.csv", ("image", "person", "expression", "split"), faces)
        _write_csv(work / "truth.csv", ("image", "orientation"), faces, landmarks=True)


def clip_frames(
    *, frames: int, fps: float, size: int, seed: int
) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], Float32[np.ndarray, "68 2"], Orientation]]:
    """Film one synthetic person who changes expression and turns; yields picture, landmarks, orientation."""
    rng = np.random.default_rng(seed)
    person, scene = Person.random(rng), Scene.random(rng)
    stations = [
        (Pose.random(EXPRESSIONS[i % 3], orientation, rng), orientation)
        for i, orientation in enumerate([Orientation.CENTER, *ORIENTATIONS] * (2 + frames // 10))
    ]
    per_station = max(1.0, _HOLD_S * fps)
    for index in range(frames):
        station, share = divmod(index / per_station, 1.0)
        here, there = stations[int(station)], stations[int(station) + 1]
        eased = share * share * (3 - 2 * share)
        pose = blend(here[0], there[0], eased)
        image, landmarks = draw_face(person, pose, scene, size=size, rng=rng)
        yield image, landmarks, (here if eased < 0.5 else there)[1]


def write_clip(
    out: Path,
    frames: Iterator[UInt8[np.ndarray, "h w 3"]],
    *,
    fps: float,
    codec: Literal["mp4v", "vp09"] = "mp4v",
) -> int:
    """Write frames to an MP4 file and return how many; the file appears when the last frame is in.

    `mp4v` is quick to write, and browsers refuse it; `vp09` plays there, at fifty times the processor time.
    """
    count = 0
    with atomic.new_file(out) as work:
        writer: cv2.VideoWriter | None = None
        try:
            for frame in frames:
                if writer is None:
                    code = cv2.VideoWriter.fourcc(*codec)
                    writer = cv2.VideoWriter(str(work), code, fps, (frame.shape[1], frame.shape[0]))
                writer.write(frame)
                count += 1
        finally:
            if writer is not None:
                writer.release()
        if count == 0:
            raise InputError(f"{out}: a clip needs at least one frame")
    return count


def _draw_person(job: tuple[Path, int, int, int, int]) -> list[SyntheticFace]:
    folder, index, per_person, people, seed = job
    cv2.setNumThreads(1)  # one process per core already
    rng = np.random.default_rng([seed, index])
    person, name = Person.random(rng), f"person-{index:04d}"
    split = "test" if index >= people - max(1, round(people * _TEST_PEOPLE)) else "train"
    orientations = tuple(TURN_DEGREES)
    faces = []
    for picture in range(per_person):
        expression = EXPRESSIONS[picture % len(EXPRESSIONS)]
        turn = picture // len(EXPRESSIONS) + index
        orientation = orientations[turn % len(orientations)]
        pose, scene = Pose.random(expression, orientation, rng), Scene.random(rng)
        image, landmarks = draw_face(person, pose, scene, size=IMAGE_SIZE, rng=rng)
        path = folder / f"{name}-{picture:03d}-{expression}.png"
        cv2.imwrite(str(path), image)
        flat = tuple(round(float(value), 2) for value in landmarks.ravel())
        faces.append(SyntheticFace(f"images/{path.name}", name, expression, orientation.value, split, flat))
    return faces


def _write_csv(
    path: Path, columns: tuple[str, ...], faces: list[SyntheticFace], *, landmarks: bool = False
) -> None:
    points = [f"{axis}{i}" for i in range(68) for axis in "xy"] if landmarks else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *points])
        for face in faces:
            row = [getattr(face, column) for column in columns]
            writer.writerow([*row, *(face.landmarks if landmarks else ())])
