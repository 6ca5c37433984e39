"""`maskfer mask` and `maskfer bench awfm` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.data.synthetic import Person, Pose, Scene, draw_face

_COMMAND = str(Path(sys.executable).with_name("maskfer"))


def maskfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(2)
    image, _ = draw_face(Person.random(rng), Pose(), Scene(), size=160, rng=rng)
    cv2.imwrite(str(folder / "face.png"), image)
    cv2.imwrite(str(folder / "wall.png"), np.full((100, 100, 3), 77, np.uint8))
    return folder


def test_rejects_are_listed_and_do_not_fail_the_command(photos, tmp_path):
    done = maskfer("mask", photos, "--out", tmp_path, "--type", "kn95", "--color", "#ffffff", "--regions")
    assert done.returncode == 0, done.stderr
    assert "2 pictures: 1 masked, 1 rejected (0 unreadable); 1 faces masked" in done.stdout
    assert (tmp_path / "rejects.csv").read_text() == "image,reason\nwall.png,no face found\n"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"face.png", "face.png.region.png", "rejects.csv", ".maskfer-mask"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}", "--type", "helmet"], "mask type 'helmet' is not one of surgical"),
        (["{photos}", "--color", "blue"], "mask colour 'blue' is not of the form #rrggbb"),
        (["{photos}/labels.csv"], "no such file or folder"),
        (["{empty}"], "no picture among 0 files"),
        (["{photos}/wall.png"], "no face could be masked in 1 pictures"),
        (["{photos}", "--out", "{mine}"], "holds face.png and no .maskfer-mask"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(photos, tmp_path, arguments, message):
    empty, mine = tmp_path / "empty", tmp_path / "mine"
    for folder in (empty, mine):
        folder.mkdir()
    (mine / "face.png").touch()
    filled = [argument.format(photos=photos, empty=empty, mine=mine) for argument in arguments]
    done = maskfer("mask", "--out", tmp_path / "out", *filled)
    assert done.returncode == 2
    assert done.stderr.startswith("maskfer: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_the_bench_prints_and_writes_its_figures(photos, tmp_path):
    done = maskfer(
        *("bench", "awfm", "--images", photos, "--size", 160, "--count", 2),
        *("--workers", 1, "--json", tmp_path / "b.json"),
    )
    assert done.returncode == 0, done.stderr
    for part in ("detect", "landmarks", "render", "end to end", "rejected"):
        assert part in done.stdout
    figures = json.loads((tmp_path / "b.json").read_text())
    assert figures["pictures"] == 2
    assert figures["rejected"] == 1
    assert figures["end_to_end"] > 0
    assert set(figures["parts"]) >= {"decode", "detect", "landmarks", "render", "encode"}
