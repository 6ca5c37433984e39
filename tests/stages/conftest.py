"""What the tests of the training stages share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskfer.config import Params
from maskfer.data.table import encode_image, encode_region, write_faces
from maskfer.labels import EXPRESSIONS, ORIENTATIONS


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: runs that are compared, killed ones too, have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_DYING = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from maskfer.config import Params
from maskfer.learning.checkpoint import Checkpoint

save = Checkpoint.save
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.save = save_and_die

stage, *paths, params = sys.argv[1:]
run = import_module(f"maskfer.stages.{stage}").run
run(*map(Path, paths), params=Params.model_validate_json(params))
"""


def run_killed(stage: str, *paths: Path, params: Params) -> None:
    """Run a training stage in a process that is killed once it has written its first checkpoint.

    It kills itself: whoever waits for the file may look when the run is over already.
    """
    command = [sys.executable, "-c", _DYING, stage, *map(str, paths), params.model_dump_json()]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=one_thread, timeout=200, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture(scope="session")
def toy_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A faces table of 72 drawn heads and their masked twins: enough to train on, in seconds."""
    path = tmp_path_factory.mktemp("toy") / "faces.parquet"
    rng = np.random.default_rng(0)
    rows = [row for index in range(72) for row in _toy_twins(index, rng)]
    write_faces(path, rows, metadata={"crop_size": 96, "crop_context": 1.0, "seed": 0})
    return path


def _toy_twins(index: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    face = np.full((96, 96, 3), int(rng.integers(20, 80)), np.uint8)
    skin = int(rng.integers(120, 200))
    cv2.ellipse(face, (48, 48), (32, 44), 0, 0, 360, (skin,) * 3, -1)
    label = index % 3
    for eye in (34, 62):
        cv2.circle(face, (eye, 38 - 3 * label), 4, (20, 20, 20), -1)
    cv2.ellipse(face, (48, 68), (14, 3 + 4 * label), 0, 0, 180, (40, 40, 40), 2)
    region = np.zeros((96, 96), bool)
    region[52:90, 20:76] = True
    masked = face.copy()
    masked[region] = int(rng.integers(215, 250))
    common = {
        "source": f"{index}.png",
        "source_sha256": f"{index:064x}",
        "person": f"person-{index // 3}",
        "expression": EXPRESSIONS[label],
        "split": ("train", "train", "val", "test")[index // 3 % 4],
        "orientation": ORIENTATIONS[index % 5],
        "confidence": 0.9,
        "box": [8.0, 8.0, 80.0, 80.0],
        "landmarks": _toy_landmarks(label).ravel().tolist(),
    }
    unmasked = {
        **common,
        "face_id": f"{index:016x}",
        "is_masked": False,
        "mask_origin": "none",
        "image": encode_image(face, quality=90),
    }
    twin = {
        **common,
        "face_id": f"{index:016x}-m",
        "is_masked": True,
        "mask_origin": "drawn",
        "mask_type": "surgical",
        "mask_color": "#ffffff",
        "twin_id": f"{index:016x}",
        "image": encode_image(masked, quality=90),
        "mask_region": encode_region(region),
    }
    return [unmasked, twin]


def _toy_landmarks(label: int) -> np.ndarray:
    """The 68 points of a toy head, where `_toy_twins` draws its parts."""

    def arc(
        count: int, middle: tuple[float, float], radii: tuple[float, float], *, turns: float
    ) -> np.ndarray:
        angles = np.pi - np.linspace(0, turns * 2 * np.pi, count, endpoint=turns < 1)
        return np.array(middle) + np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)

    level, mouth = 38 - 3 * label, (48, 68 + 2 * label)
    return np.concatenate(
        [
            arc(17, (48, 48), (32, 44), turns=0.5),
            arc(5, (34, level - 8), (8, -2), turns=0.5),
            arc(5, (62, level - 8), (8, -2), turns=0.5),
            np.linspace((48, level), (48, 56), 4),
            np.linspace((42, 60), (54, 60), 5),
            arc(6, (34, level), (4, -4), turns=1),
            arc(6, (62, level), (4, -4), turns=1),
            arc(12, mouth, (14, -5), turns=1),
            arc(8, mouth, (10, -3), turns=1),
        ]
    )
