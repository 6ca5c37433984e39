"""Synthetic faces: the detector finds them, their truth is exact, and the same seed draws the same bytes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from maskfer.data.synthetic import (
    Person,
    Pose,
    Scene,
    clip_frames,
    draw_face,
    write_clip,
    write_synthetic_dataset,
)
from maskfer.errors import InputError
from maskfer.faces.detect import default_detector
from maskfer.labels import EXPRESSIONS, ORIENTATIONS, Orientation


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "raw"
    list(write_synthetic_dataset(out, people=4, per_person=15, seed=3))
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_expression_and_orientation_is_drawn_and_test_people_are_apart(raw: Path) -> None:
    labels, truth = rows(raw / "labels.csv"), rows(raw / "truth.csv")
    assert len(labels) == len(truth) == 60
    assert {row["expression"] for row in labels} == set(EXPRESSIONS)
    assert {row["orientation"] for row in truth} == set(ORIENTATIONS)
    people = {side: {r["person"] for r in labels if r["split"] == side} for side in ("train", "test")}
    assert people["test"]
    assert not people["train"] & people["test"]


def test_the_detector_finds_the_faces_where_the_landmarks_are(raw: Path) -> None:
    detector = default_detector()
    found = 0
    for row in rows(raw / "truth.csv"):
        image = cv2.imread(str(raw / row["image"]))
        assert image is not None
        points = np.array([[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(68)])
        for face in detector.detect(image)[:1]:
            x, y = points[27:68].mean(axis=0)
            found += (
                face.box.left < x < face.box.left + face.box.width
                and face.box.top < y < face.box.top + face.box.height
            )
    assert found >= 59  # 98 in 100


def test_the_same_seed_draws_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    drawn = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        list(write_synthetic_dataset(out, people=2, per_person=4, seed=3, workers=workers))
        drawn.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 8 + 2


def test_landmarks_turn_with_the_head() -> None:
    rng = np.random.default_rng(0)
    person, scene = Person.random(rng), Scene()
    noses = {
        yaw: draw_face(person, Pose(yaw=yaw), scene, size=64, rng=rng)[1][30, 0] for yaw in (-30.0, 0.0, 30.0)
    }
    assert noses[-30.0] < noses[0.0] < noses[30.0]


@pytest.mark.parametrize(("codec", "written"), [("mp4v", "FMP4"), ("vp09", "VP90")])
def test_a_clip_holds_its_frames(tmp_path: Path, codec: Literal["mp4v", "vp09"], written: str) -> None:
    frames = list(clip_frames(frames=6, fps=10, size=96, seed=1))
    assert {orientation for _, _, orientation in frames} <= set(Orientation)
    images = (image for image, _, _ in frames)
    assert write_clip(tmp_path / "clip.mp4", images, fps=10, codec=codec) == 6
    video = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert [video.read()[0] for _ in range(7)] == [True] * 6 + [False]
    code = int(video.get(cv2.CAP_PROP_FOURCC))
    assert code.to_bytes(4, "little").decode() == written


def test_an_occupied_folder_is_left_alone(raw: Path) -> None:
    before = sorted(raw.rglob("*"))
    with pytest.raises(InputError, match="holds images"):
        list(write_synthetic_dataset(raw, people=1, per_person=3, seed=0))
    assert sorted(raw.rglob("*")) == before
