"""`maskfer data`: one command from photographs to a table, and a failure that costs nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from maskfer.cli import load_commands
from maskfer.data.rejects import read_rejects
from maskfer.data.table import FacesTable
from maskfer.errors import DatasetError, InputError, LabelError, MaskferError


def maskfer(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(load_commands(), ["data", *map(str, arguments)])
    if isinstance(result.exception, MaskferError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def built(raw_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A raw folder with a broken picture, built; and what the command printed."""
    folder = tmp_path_factory.mktemp("built")
    raw = folder / "raw"
    shutil.copytree(raw_faces, raw)
    (raw / "positive/broken.jpg").write_bytes(b"no picture")
    result = maskfer("build", raw, "--out", folder / "dataset")
    return folder, result.output


def test_build_accounts_for_every_image(built: tuple[Path, str]) -> None:
    folder, output = built
    table = FacesTable.read(folder / "dataset/faces.parquet")
    rejects = read_rejects(folder / "dataset/rejects.csv")
    assert len(set(table.column("source"))) + len(rejects) == 10
    assert "10 images = 9 faces + 1 rejected; 9 masked twins" in output
    assert "does not decode" in output
    assert {path.name for path in folder.iterdir()} == {"raw", "dataset"}


def test_show_counts_what_is_there(built: tuple[Path, str]) -> None:
    folder, _ = built
    assert "10 images = 9 faces + 1 rejected" in maskfer("show", folder / "dataset").output
    counts = json.loads(maskfer("show", folder / "dataset", "--json").output)
    assert (counts["images"], counts["faces"], counts["twins"], counts["rejects"]) == (10, 9, 9, 1)
    assert sum(row["drawn"] for row in counts["labels"]) == 9
    assert sum(sum(split.values()) for split in counts["orientations"].values()) == 9


def test_build_without_masks_has_no_twins_and_a_rebuild_replaces(raw_faces: Path, tmp_path: Path) -> None:
    maskfer("build", raw_faces, "--out", tmp_path / "d", "--no-masks")
    first = FacesTable.read(tmp_path / "d/faces.parquet")
    maskfer("build", raw_faces, "--out", tmp_path / "d", "--no-masks")
    second = FacesTable.read(tmp_path / "d/faces.parquet")
    assert set(second.column("mask_origin")) == {"none"}
    assert first.table.equals(second.table)


def test_a_failed_build_leaves_the_dataset_of_before(built: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = built
    shutil.copytree(folder / "dataset", tmp_path / "d")
    before = FacesTable.read(tmp_path / "d/faces.parquet").sha256()
    (tmp_path / "raw/hapy").mkdir(parents=True)
    (tmp_path / "raw/hapy/a.png").write_bytes(b"x")
    with pytest.raises(LabelError, match="hapy"):
        maskfer("build", tmp_path / "raw", "--out", tmp_path / "d")
    assert FacesTable.read(tmp_path / "d/faces.parquet").sha256() == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "d"}


def test_build_of_an_empty_folder_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        maskfer("build", tmp_path / "raw", "--out", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_three_steps_make_what_build_makes_also_over_what_they_made_before(
    raw_faces: Path, tmp_path: Path
) -> None:
    maskfer("build", raw_faces, "--out", tmp_path / "built")
    for _ in range(2):
        maskfer("ingest", raw_faces, "--out", tmp_path / "records")
        maskfer("align", tmp_path / "records", "--raw", raw_faces, "--out", tmp_path / "aligned")
        maskfer("wear-masks", tmp_path / "aligned", "--out", tmp_path / "faces")
    one, other = (FacesTable.read(tmp_path / name / "faces.parquet") for name in ("built", "faces"))
    assert one.sha256() == other.sha256()


def test_the_last_steps_rejects_are_those_of_all(built: tuple[Path, str], tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(built[0] / "raw", raw)
    (raw / "lost.png").write_bytes(b"no class folder")
    maskfer("ingest", raw, "--out", tmp_path / "records")
    maskfer("align", tmp_path / "records", "--raw", raw, "--out", tmp_path / "aligned")
    maskfer("wear-masks", tmp_path / "aligned", "--out", tmp_path / "faces")
    rejects = read_rejects(tmp_path / "faces/rejects.csv")
    assert [(reject.image, reject.stage) for reject in rejects] == [
        ("lost.png", "ingest"),
        ("positive/broken.jpg", "align"),
    ]
    assert "11 images = 9 faces + 2 rejected" in maskfer("show", tmp_path / "faces").output


def test_the_name_of_a_folder_is_shown_as_it_is(built: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "[bold] :cat:"
    folder.symlink_to(built[0] / "dataset")
    assert f"{folder}: 10 images" in maskfer("show", folder).output


def test_synth_and_build_go_together(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    printed = maskfer("synth", "--out", raw, "--people", "2", "--per-person", "3", "--workers", "1")
    assert "6 synthetic faces of 2 people" in printed.output
    assert "6 images = 6 faces + 0 rejected" in maskfer("build", raw, "--out", tmp_path / "d").output


def test_a_clip_has_its_frames_and_its_mask_comes_on_half_way(tmp_path: Path) -> None:
    for name, option in (("bare.mp4", "--no-mask"), ("masked.mp4", "--mask")):
        maskfer("clip", "--out", tmp_path / name, "--frames", "4", "--fps", "2", "--size", "128", option)
    bare, masked = (_frames(tmp_path / name) for name in ("bare.mp4", "masked.mp4"))
    assert len(bare) == len(masked) == 4
    changes = [cv2.absdiff(one, other).mean() for one, other in zip(bare, masked, strict=True)]
    assert max(changes[:2]) < 1 < min(changes[2:])


def _frames(path: Path) -> list[cv2.typing.MatLike]:
    film = cv2.VideoCapture(str(path))
    frames = []
    while (answer := film.read())[0]:
        frames.append(answer[1])
    film.release()
    return frames


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ingest", "photos", "--out", "photos"), "photos: would take the place of the input photos"),
        (("ingest", "photos", "--out", "."), "would take the place of the input photos"),
        (("ingest", "photos", "--out", "holiday"), "holiday: holds beach.png"),
        (("align", "photos", "--raw", "holiday", "--out", "holiday"), "take the place of the input holiday"),
        (("align", "photos", "--raw", "photos", "--out", "holiday"), "holiday: holds beach.png"),
        (("wear-masks", "photos", "--out", "photos"), "would take the place of the input photos"),
        (("wear-masks", "photos", "--out", "holiday"), "holiday: holds beach.png"),
        (("synth", "--out", "holiday"), "holiday: holds beach.png"),
        (("synth", "--out", "holiday/beach.png"), "holiday/beach.png is a file"),
        (("build", "photos", "--out", "holiday/beach.png/x"), "holiday/beach.png is a file"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused_before_any_work(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos/positive/a.png", "holiday/beach.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"a picture")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(said)):
        maskfer(*arguments)
    assert sorted(tmp_path.rglob("*")) == before
