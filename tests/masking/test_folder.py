"""A folder of pictures: what comes out, what is listed, and what it does not depend on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.config import MaskingParams
from maskfer.errors import ImageError, InputError
from maskfer.labels import Orientation
from maskfer.masking import folder
from maskfer.masking.folder import FolderReport, mask_folder
from maskfer.masking.picture import MaskWearer, StyleChoice
from maskfer.masking.written import LIST


def masked(source: Path, out: Path, **options) -> FolderReport:
    options = {"params": MaskingParams(), "choice": StyleChoice(), "seed": 5, "workers": 1} | options
    return mask_folder(source, out, **options)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LIST
    }


def copies(folder: Path, **originals: Path) -> Path:
    """Make a folder of pictures: a name, whose `_` becomes a dot, for each original."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, original in originals.items():
        shutil.copy(original, folder / name.replace("_", "."))
    return folder


@pytest.fixture(scope="module")
def done(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FolderReport]:
    out = tmp_path_factory.mktemp("masked") / "out"
    return out, masked(photo_folder, out, regions=True)


def test_names_folders_and_formats_stay(done, photo_folder):
    out, _ = done
    pictures = {name for name in tree(out) if not name.endswith((folder.REGION_SUFFIX, folder.REJECTS))}
    assert pictures == {
        "a.jpg",
        "grey.png",
        "people/b.png",
        "people/deep/c.webp",
        "transparent.png",
        "two.png",
    }
    for name in pictures:
        before = cv2.imread(str(photo_folder / name), cv2.IMREAD_UNCHANGED)
        after = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)
        assert after.shape == before.shape
    for magic, name in ((b"\xff\xd8", "a.jpg"), (b"\x89PNG", "grey.png"), (b"RIFF", "people/deep/c.webp")):
        assert (out / name).read_bytes().startswith(magic)
    alpha = cv2.imread(str(out / "transparent.png"), cv2.IMREAD_UNCHANGED)[..., 3]
    assert (alpha == 200).all()


def test_counts_add_up_and_every_reject_has_its_reason(done):
    out, report = done
    assert report.pictures == report.written + report.rejected == 8
    assert (report.rejected, report.unreadable, report.skipped_files) == (2, 1, 1)
    assert report.faces_masked == 7
    with (out / folder.REJECTS).open() as file:
        rows = {row["image"]: row["reason"] for row in csv.DictReader(file)}
    assert rows["nobody.png"] == "no face found"
    assert rows["broken.jpg"].startswith("cannot be read")
    assert set(rows) == {"nobody.png", "broken.jpg"}


def test_both_people_of_a_picture_are_masked(done):
    out, _ = done
    region = cv2.imread(str(out / ("two.png" + folder.REGION_SUFFIX)), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(region)) == {0, 255}
    count, _, stats, _ = cv2.connectedComponentsWithStats(region)
    assert count == 3  # the background and two masks
    assert stats[1:, cv2.CC_STAT_AREA].min() > 1000


def test_the_region_is_where_the_picture_changed_most(done, photo_folder):
    out, _ = done
    before, after = (cv2.imread(str(place / "people" / "b.png")).astype(int) for place in (photo_folder, out))
    region = cv2.imread(str(out / "people" / ("b.png" + folder.REGION_SUFFIX)), cv2.IMREAD_GRAYSCALE) == 255
    change = np.abs(after - before).max(axis=-1)
    assert change[region].mean() > 10 * change[~region].mean()


def test_the_result_does_not_depend_on_the_number_of_workers(done, photo_folder, tmp_path, monkeypatch):
    out, report = done
    monkeypatch.setattr(folder, "_WORTH_A_WORKER", 1)
    monkeypatch.setattr(folder, "_CHUNK", 3)
    seen: list[tuple[int, int]] = []
    again = masked(
        photo_folder,
        tmp_path / "out",
        regions=True,
        workers=2,
        progress=lambda finished, total: seen.append((finished, total)),
    )
    assert again == report
    assert tree(tmp_path / "out") == tree(out)
    assert seen[-1] == (8, 8)


def test_one_picture_gets_what_it_gets_alone_and_in_company(done, photo_folder, tmp_path):
    out, _ = done
    report = masked(photo_folder / "a.jpg", tmp_path / "one")
    assert report.written == 1
    assert (tmp_path / "one" / "a.jpg").read_bytes() == (out / "a.jpg").read_bytes()


def test_a_fixed_style_is_worn_by_all(photo_folder, tmp_path):
    choice = StyleChoice.parse("cloth", "#ff0000", None, keeps_color=True)
    masked(photo_folder / "grey.png", tmp_path, choice=choice, regions=True)
    image = cv2.imread(str(tmp_path / "grey.png"))
    region = cv2.imread(str(tmp_path / ("grey.png" + folder.REGION_SUFFIX)), cv2.IMREAD_GRAYSCALE) == 255
    blue, _, red = np.median(image[region], axis=0)
    assert red > blue + 80


def test_an_output_folder_inside_the_input_is_not_masked_again(photo_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(photo_folder / "a.jpg", source)
    for _ in range(2):
        report = masked(source, source / "masked")
        assert report.pictures == 1


@pytest.mark.parametrize(("length", "regions", "written"), [(255, False, 2), (250, True, 1)])
def test_a_name_as_long_as_names_can_be_stops_no_other_picture(
    photo_folder, tmp_path, length, regions, written
):
    source, long = tmp_path / "in", "n" * (length - 4) + ".jpg"
    source.mkdir()
    for name in (long, "o.jpg"):
        shutil.copy(photo_folder / "a.jpg", source / name)
    report = masked(source, tmp_path / "out", regions=regions)
    assert (report.pictures, report.written, report.faces_masked) == (2, written, written)
    assert (report.unreadable, report.faces_rejected) == (0, 0)
    listed = (tmp_path / "out" / folder.REJECTS).read_text().splitlines()[1:]
    assert listed == [f"{long},cannot be written: File name too long"] * (2 - written)
    assert (tmp_path / "out" / long).exists() == (written == 2)
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [LIST]


def test_a_name_that_is_not_utf8_stays_and_is_listed_with_escapes(photo_folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, of in ((b"caf\xe9.jpg", "a.jpg"), (b"mur\xe9.png", "nobody.png")):
        (source / os.fsdecode(name)).write_bytes((photo_folder / of).read_bytes())
    report = masked(source, out)
    assert (report.written, report.rejected) == (1, 1)
    assert {os.fsencode(name) for name in tree(out)} == {b"caf\xe9.jpg", b"rejects.csv"}
    assert (out / folder.REJECTS).read_text() == "image,reason\nmur\\udce9.png,no face found\n"
    assert masked(source, out) == report


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_transparent_picture_is_turned_upright_as_its_exif_says(suffix, orientation):
    rng = np.random.default_rng(0)
    stored = rng.integers(1, 256, (6, 9, 4), dtype=np.uint8)
    upright = cv2.imdecode(_with_exif(stored[..., :3], ".png", orientation), cv2.IMREAD_COLOR)
    alpha = cv2.imdecode(_with_exif(stored[..., 3], ".png", orientation), cv2.IMREAD_GRAYSCALE)
    picture = folder.decode_picture(_with_exif(stored, suffix, orientation).tobytes())
    assert np.array_equal(picture, np.dstack([upright, alpha]))


def _with_exif(picture: np.ndarray, suffix: str, orientation: int) -> np.ndarray:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = np.frombuffer(b"MM\0*\0\0\0\x08\0\x01" + entry + bytes(4), np.uint8)
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    _, content = cv2.imencodeWithMetadata(
        suffix, np.ascontiguousarray(picture), [cv2.IMAGE_METADATA_EXIF], [exif], lossless
    )
    return content


def test_a_single_file_of_another_suffix_is_refused_before_it_is_read(photo_folder, tmp_path):
    shutil.copy(photo_folder / "a.jpg", tmp_path / "face.jfif")
    with pytest.raises(InputError, match=r"face\.jfif: suffix \.jfif is not read; expected one of \.jpg"):
        masked(tmp_path / "face.jfif", tmp_path / "out")


@pytest.mark.parametrize("out", [".", "../in"])
def test_the_originals_are_never_overwritten(photo_folder, tmp_path, out):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(photo_folder / "a.jpg", source)
    before = tree(tmp_path)
    for given in (source, source / "a.jpg"):
        with pytest.raises(InputError, match="would overwrite"):
            masked(given, source / out)
    assert tree(tmp_path) == before


def test_a_folder_with_pictures_of_its_own_is_no_place_for_masked_ones(photo_folder, tmp_path):
    source = copies(tmp_path / "2023", a_jpg=photo_folder / "a.jpg")
    out = copies(tmp_path / "2024", a_jpg=photo_folder / "people" / "b.png")
    before = tree(tmp_path)
    for given in (source, source / "a.jpg"):
        with pytest.raises(
            InputError, match=r"2024: holds a\.jpg and no \.maskfer-mask, .* a new or empty folder"
        ):
            masked(given, out)
    assert tree(tmp_path) == before
    assert not (out / LIST).exists()


def test_originals_in_an_output_folder_below_the_source_are_neither_left_out_nor_overwritten(
    photo_folder, tmp_path
):
    source = copies(tmp_path / "photos", a_jpg=photo_folder / "a.jpg")
    out = copies(source / "2023", a_jpg=photo_folder / "a.jpg")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"2023: holds a\.jpg and no \.maskfer-mask"):
        masked(source, out)
    assert tree(tmp_path) == before


def test_an_original_put_into_an_output_folder_below_the_source_is_not_left_out_without_a_word(
    photo_folder, tmp_path
):
    source = copies(tmp_path / "photos", a_jpg=photo_folder / "a.jpg")
    masked(source, source / "masked")
    copies(source / "masked" / "more", b_png=photo_folder / "people" / "b.png")
    with pytest.raises(InputError, match=r"masked: holds more/b\.png, which this command did not write"):
        masked(source, source / "masked")


def test_the_rejects_of_a_dataset_are_not_replaced(photo_folder, tmp_path):
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    for name in ("faces.parquet", "rejects.csv"):
        (dataset / name).write_text("the dataset's")
    with pytest.raises(InputError, match=r"dataset: holds faces\.parquet"):
        masked(photo_folder / "a.jpg", dataset)
    assert tree(dataset) == dict.fromkeys(("faces.parquet", "rejects.csv"), b"the dataset's")


@pytest.mark.parametrize("name", ["a.jpg", "nobody.png", "a.jpg.region.png", "rejects.csv"])
def test_what_was_put_into_an_output_folder_or_edited_there_is_not_replaced(photo_folder, tmp_path, name):
    source = copies(tmp_path / "in", a_jpg=photo_folder / "a.jpg", nobody_png=photo_folder / "nobody.png")
    out = tmp_path / "out"
    masked(source, out)
    (out / name).write_bytes(b"masked by hand")
    before = tree(out)
    with pytest.raises(InputError, match=f"out: holds {name}, which this command did not write or which has"):
        masked(source, out, regions=True, seed=6)
    assert tree(out) == before


def test_a_folder_is_masked_again_into_its_copied_output_and_notes_beside_it_stay(photo_folder, tmp_path):
    source = copies(tmp_path / "in", a_jpg=photo_folder / "a.jpg")
    masked(source, tmp_path / "first", regions=True)
    out = shutil.copytree(tmp_path / "first", tmp_path / "out", copy_function=shutil.copyfile)
    (out / "notes.txt").write_text("mine")
    first = tree(out)
    masked(source, out, regions=True, seed=6)
    second = tree(out)
    assert second.keys() == first.keys()
    assert {name for name in first if first[name] == second[name]} == {"notes.txt", "rejects.csv"}
    masked(source, out, regions=True)
    assert tree(out) == first


def test_pictures_are_masked_one_by_one_into_one_folder(photo_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".gitignore").touch()
    for name in ("a.jpg", "grey.png"):
        masked(photo_folder / name, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == {".gitignore", "a.jpg", "grey.png", "rejects.csv"}


def test_of_a_picture_that_is_rejected_now_nothing_stays(photo_folder, tmp_path):
    source = copies(tmp_path / "in", a_jpg=photo_folder / "a.jpg", b_png=photo_folder / "people" / "b.png")
    out = tmp_path / "out"
    masked(source, out, regions=True)
    copies(source, b_png=photo_folder / "nobody.png")
    assert masked(source, out, regions=True).written == 1
    assert tree(out).keys() == {"a.jpg", "a.jpg.region.png", "rejects.csv"}
    copies(source, a_jpg=photo_folder / "broken.jpg")
    with pytest.raises(ImageError):
        masked(source / "a.jpg", out)
    assert tree(out).keys() == {"rejects.csv"}


def test_a_region_does_not_stay_beside_a_picture_that_was_masked_otherwise(photo_folder, tmp_path):
    masked(photo_folder / "a.jpg", tmp_path / "out", regions=True)
    masked(photo_folder / "a.jpg", tmp_path / "out", seed=6)
    assert tree(tmp_path / "out").keys() == {"a.jpg", "rejects.csv"}


def test_what_is_put_into_the_output_folder_while_the_command_runs_is_neither_replaced_nor_removed(
    photo_folder, tmp_path, monkeypatch
):
    source = copies(tmp_path / "in", a_jpg=photo_folder / "a.jpg", b_png=photo_folder / "nobody.png")
    copies(source, c_jpg=photo_folder / "a.jpg")
    out = tmp_path / "out"
    monkeypatch.setattr(folder, "_CHUNK", 1)

    def by_hand(done: int, _: int) -> None:
        if done == 2:
            for name in ("b.png", "c.jpg"):
                (out / name).write_bytes(b"masked by hand")

    assert masked(source, out, progress=by_hand).written == 1
    assert (out / "b.png").read_bytes() == (out / "c.jpg").read_bytes() == b"masked by hand"
    assert (
        "c.jpg,cannot be written: a file that this command did not write"
        in (out / folder.REJECTS).read_text()
    )


def test_a_list_that_cannot_be_read_is_one_line(photo_folder, tmp_path):
    (tmp_path / LIST).mkdir()
    with pytest.raises(InputError, match=r"\.maskfer-mask: cannot be read"):
        masked(photo_folder / "a.jpg", tmp_path)


def test_a_run_that_was_killed_is_done_again(photo_folder, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", Path.replace

    def killed(part: Path, target: Path) -> None:
        if target.name == "grey.png":
            raise KeyboardInterrupt
        replace(part, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            masked(photo_folder, out)
    # As a power cut leaves the list: what the last line speaks of is not there.
    names = (out / LIST).read_bytes()
    assert json.loads(names.splitlines()[-1])[0] == "grey.png"
    (out / LIST).write_bytes(names[:-20])
    assert "a.jpg" in tree(out)
    report = masked(photo_folder, out)
    assert masked(photo_folder, out) == report
    assert report.written == 6


def test_an_empty_folder_a_missing_one_and_no_picture_are_refused(photo_folder, tmp_path):
    with pytest.raises(InputError, match="no picture among 0 files"):
        masked(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        masked(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ImageError, match="cannot be read"):
        masked(photo_folder / "broken.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_refused(photo_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/out"):
        masked(photo_folder / "a.jpg", tmp_path / "file/out")


def test_a_portrait_found_at_a_glance_is_found_at_full_size_too(portraits):
    wearer = MaskWearer(params=MaskingParams(), choice=StyleChoice(), seed=0)
    portrait = portraits[Orientation.CENTER]
    large = cv2.resize(portrait.image, (480, 480), interpolation=cv2.INTER_CUBIC)
    assert len(wearer.find_faces(large)) == 1
    # One large face and a small one: what is not a portrait is searched at full size.
    crowd = np.full((480, 900, 3), 120, np.uint8)
    crowd[:, :480] = large
    crowd[100:172, 700:772] = cv2.resize(portrait.image, (72, 72), interpolation=cv2.INTER_AREA)
    assert len(wearer.find_faces(crowd)) == 2


@pytest.mark.shared
def test_of_real_portraits_hardly_any_is_rejected(shared_dir, tmp_path):
    images = sorted((shared_dir / "datasets" / "lfw-expressions" / "images").glob("*.webp"))[::120]
    source = tmp_path / "in"
    source.mkdir()
    for path in images:
        portrait = cv2.resize(cv2.imread(str(path)), (320, 320), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(source / f"{path.stem}.jpg"), portrait)
    report = masked(source, tmp_path / "out")
    assert report.pictures == len(images) > 90
    assert report.rejected <= 1
