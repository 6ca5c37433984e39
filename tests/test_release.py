"""A release proves that it is whole before anything runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskfer import release as releases
from maskfer.errors import ReleaseCorrupted, ReleaseError
from maskfer.release import Description, Lineage, Release


@pytest.fixture
def release(tmp_path: Path) -> Release:
    plot = tmp_path / "loss.png"
    plot.write_bytes(b"a picture")
    description = Description(
        name="maskfer",
        classes=("positive", "neutral"),
        crop_size=96,
        crop_context=1.2,
        params={"seed": 7, "classes": ["positive", "neutral"]},
        lineage=Lineage(dataset_sha256="1" * 64),
    )
    return releases.write(
        tmp_path / "release",
        description=description,
        weights=b"weights",
        onnx=b"graph",
        plots={"loss.png": plot},
        golden={"faces.npy": b"faces"},
    )


def test_what_is_written_is_what_is_read(release: Release) -> None:
    read = releases.read(release.path)
    assert read == release
    assert read.classes == ("positive", "neutral")
    assert read.orientations == ("up", "left", "center", "right", "down")
    assert read.metadata.params == {"seed": 7, "classes": ["positive", "neutral"]}
    assert set(read.files) == {
        "model.safetensors",
        "model.onnx",
        "model.json",
        "MODEL_CARD.md",
        "plots/loss.png",
        "golden/faces.npy",
    }
    assert json.loads((release.path / "model.json").read_text())["lineage"]["dataset_sha256"] == "1" * 64


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.safetensors", "MODEL_CARD.md", "plots/loss.png", "golden/faces.npy"]
)
def test_a_changed_byte_in_any_file_is_found_and_named(release: Release, name: str) -> None:
    file = release.path / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ReleaseCorrupted, match=name):
        releases.read(release.path)


def test_a_missing_file_is_named(release: Release) -> None:
    (release.path / "model.onnx").unlink()
    with pytest.raises(ReleaseCorrupted, match=r"model\.onnx: missing"):
        releases.read(release.path)


def test_a_file_changed_together_with_model_json_differs_from_what_another_source_states(
    release: Release,
) -> None:
    stated = dict(release.files)
    (release.path / "model.onnx").write_bytes(b"another graph")
    document = json.loads((release.path / "model.json").read_text())
    document["files"]["model.onnx"] = releases.file_sha256(release.path / "model.onnx")
    (release.path / "model.json").write_text(json.dumps(document))
    changed = releases.read(release.path)
    with pytest.raises(ReleaseCorrupted, match=r"model\.(onnx|json)"):
        releases.verify(changed, expected=stated)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version"),
        ({"extra": 1}, "extra"),
        ({"files": {"../model.onnx": "0" * 64}}, "inside the release"),
        ({"files": {"/etc/passwd": "0" * 64}}, "inside the release"),
        ({"files": {}}, "lists no sha256"),
        ({"classes": ["one"]}, "classes"),
    ],
)
def test_a_model_json_of_another_kind_is_refused(
    release: Release, change: dict[str, object], says: str
) -> None:
    file = release.path / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ReleaseError, match=says):
        releases.read(release.path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_folder_without_a_readable_model_json_is_no_release(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"model\.json"):
        releases.read(tmp_path)


def test_a_failed_write_leaves_the_release_before(release: Release) -> None:
    description = Description.model_validate(
        release.metadata.model_dump(exclude={"files", "format_version"}) | {"name": "other"}
    )
    with pytest.raises(FileNotFoundError):
        releases.write(
            release.path, description=description, weights=b"new", onnx=Path("absent.onnx"), card="new"
        )
    assert releases.read(release.path) == release
    assert {path.name for path in release.path.parent.iterdir()} == {"release", "loss.png"}


def test_a_judged_release_carries_its_figures_and_keeps_everything_else(
    release: Release, tmp_path: Path
) -> None:
    picture = tmp_path / "slices.png"
    picture.write_bytes(b"bars")
    judged = releases.judged(
        release,
        tmp_path / "judged",
        metrics={"accuracy": 0.9},
        card="# Card",
        plots={"slices.png": picture},
    )
    assert judged.metadata.metrics == {"accuracy": 0.9}
    assert (judged.path / "MODEL_CARD.md").read_text() == "# Card"
    assert judged.files["model.onnx"] == release.files["model.onnx"]
    assert judged.metadata.created_at == release.metadata.created_at
    assert {"plots/loss.png", "plots/slices.png"} <= set(judged.files)
    assert judged.files["golden/faces.npy"] == release.files["golden/faces.npy"]
    assert judged.sha256 != release.sha256


@pytest.mark.parametrize(
    ("reference", "folder"),
    [
        ("maskfer@champion", False),
        ("maskfer@3", False),
        ("runs/release", True),
        ("/home/me@corp/release", True),
    ],
)
def test_a_reference_is_a_folder_or_a_registered_name(reference: str, folder: bool) -> None:
    assert releases.is_folder(reference) is folder
