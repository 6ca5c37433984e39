"""Raw folders of every layout become records, and nothing disappears silently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from maskfer.data.ingest import read_raw
from maskfer.errors import DatasetError, LabelError
from maskfer.labels import EMOTIONS, EXPRESSIONS


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def labels_csv(raw: Path, *rows: str, header: str = "image,person,expression") -> Path:
    write(raw / "labels.csv", "\n".join([header, *rows]) + "\n")
    return raw


def test_a_folder_per_class_gives_each_image_its_folder_as_label(tmp_path: Path) -> None:
    for name in EXPRESSIONS:
        write(tmp_path / name / "deep" / "a.png", name)
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert {(r.image, r.expression) for r in records} == {(f"{n}/deep/a.png", n) for n in EXPRESSIONS}
    assert rejects == []


def test_the_lfw_fer_layout_gives_split_and_person(tmp_path: Path) -> None:
    write(tmp_path / "train/positive/Ann_Lee_0001.jpg", "1")
    write(tmp_path / "eval/negative/Bo_0002.jpg", "2")
    records, _ = read_raw(tmp_path, classes=EXPRESSIONS)
    found = {(r.person, r.split, r.expression) for r in records}
    assert found == {("Ann_Lee", "train", "positive"), ("Bo", "test", "negative")}


@pytest.mark.parametrize("layout", ["labels.csv", "train|eval"])
def test_one_person_in_two_unicode_forms_is_one_person(tmp_path: Path, layout: str) -> None:
    composed, apart = (normalize(form, "Zoé") for form in ("NFC", "NFD"))
    if layout == "labels.csv":
        labels_csv(tmp_path, f"a.png,{composed},positive", f"b.png,{apart},neutral")
        write(tmp_path / "a.png", "1")
        write(tmp_path / "b.png", "2")
    else:
        write(tmp_path / f"train/positive/{composed}_0001.png", "1")
        write(tmp_path / f"eval/neutral/{apart}_0002.png", "2")
    records, _ = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.person for r in records] == [composed, composed]


@pytest.mark.parametrize(("on_disk", "in_row"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_image_is_found_in_the_other_unicode_form(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], in_row: Literal["NFC", "NFD"]
) -> None:
    name = normalize(on_disk, "Zoé.png")
    write(tmp_path / f"images/{name}", "1")
    labels_csv(tmp_path, f"{normalize(in_row, name)},Zoe,positive")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == [f"images/{name}"]
    assert rejects == []


def test_an_emotion_in_the_place_of_an_expression_is_mapped(tmp_path: Path) -> None:
    write(tmp_path / "happiness/a.png", "1")
    write(tmp_path / "anger/b.png", "2")
    records, _ = read_raw(tmp_path, classes=EXPRESSIONS)
    assert {(r.emotion, r.expression) for r in records} == {("happiness", "positive"), ("anger", "negative")}


def test_surprise_is_dropped_for_three_classes_and_kept_for_emotions(tmp_path: Path) -> None:
    write(tmp_path / "surprise/a.png", "1")
    write(tmp_path / "happiness/b.png", "2")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == ["happiness/b.png"]
    assert [(r.image, r.reason) for r in rejects] == [
        ("surprise/a.png", "no label among the classes: surprise")
    ]
    records, rejects = read_raw(tmp_path, classes=EMOTIONS)
    assert len(records) == 2
    assert rejects == []


def test_images_are_found_beside_the_csv_or_in_its_images_folder(tmp_path: Path) -> None:
    labels_csv(tmp_path, "a.png,Ann,positive", "b.png,Bo,negative")
    write(tmp_path / "a.png", "1")
    write(tmp_path / "images/b.png", "2")
    records, _ = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == ["a.png", "images/b.png"]


def test_a_missing_image_and_a_second_copy_are_rejects_with_their_reasons(tmp_path: Path) -> None:
    labels_csv(tmp_path, "a.png,Ann,positive", "b.png,Bo,negative", "c.png,Cy,neutral")
    write(tmp_path / "a.png", "same")
    write(tmp_path / "b.png", "same")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == ["a.png"]
    assert {r.image: r.reason for r in rejects} == {
        "b.png": "same bytes as an earlier image: a.png",
        "c.png": "the file is missing or cannot be read",
    }


def test_masks_alone_are_a_label(tmp_path: Path) -> None:
    labels_csv(tmp_path, "a.png,masked", "b.png,unmasked", header="image,mask")
    write(tmp_path / "a.png", "1")
    write(tmp_path / "b.png", "2")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [(r.is_masked, r.expression) for r in records] == [(True, None), (False, None)]
    assert rejects == []


def test_unmasked_faces_alone_are_a_dataset(tmp_path: Path) -> None:
    labels_csv(tmp_path, "a.png,unmasked", header="image,mask")
    write(tmp_path / "a.png", "1")
    records, _ = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [(r.is_masked, r.expression) for r in records] == [(False, None)]


def test_a_row_is_used_for_the_labels_it_has_and_a_row_without_any_is_a_reject(tmp_path: Path) -> None:
    rows = ("a.png,,masked", "b.png,,", "c.png,positive,", "d.png,surprise,unmasked", "e.png,surprise,")
    labels_csv(tmp_path, *rows, header="image,expression,mask")
    for row in rows:
        write(tmp_path / row.split(",")[0], row)
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [(r.image, r.expression, r.is_masked) for r in records] == [
        ("a.png", None, True),
        ("c.png", "positive", False),
        ("d.png", None, False),
    ]
    assert [(r.image, r.reason) for r in rejects] == [
        ("b.png", "no label among the classes: none"),
        ("e.png", "no label among the classes: surprise"),
    ]


@pytest.mark.parametrize(
    ("layout", "unused"),
    [
        (
            ["labels.csv", "a.png", "images/b.png"],
            {"c.png": "not named by labels.csv", "images/d.heic": "not named by labels.csv"},
        ),
        (
            ["train/positive/a.png", "eval/neutral/deep/b.jpg"],
            {
                "c.png": "not in the folder eval or train",
                "neutral/d.png": "not in the folder eval or train",
                "train/e.png": "not in a class folder",
                "train/positive/f.gif": "suffix not read: .gif",
            },
        ),
        (
            ["positive/a.png", "neutral/deep/b.jpg"],
            {
                "c.png": "not in a class folder",
                "positive/d.jfif": "suffix not read: .jfif",
                "neutral/e": "suffix not read: none",
            },
        ),
    ],
)
def test_an_image_for_which_the_layout_has_no_place_is_a_reject(
    tmp_path: Path, layout: list[str], unused: dict[str, str]
) -> None:
    beside = ["truth.csv", "positive/notes.txt", "positive/.DS_Store", ".trash/x.png"]
    for name in [*layout, *unused, *beside]:
        write(tmp_path / name, name)
    if "labels.csv" in layout:
        labels_csv(tmp_path, "a.png,Ann,positive", "b.png,Bo,neutral")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == sorted(name for name in layout if name != "labels.csv")
    assert {r.image: r.reason for r in rejects} == unused


@pytest.mark.parametrize("layout", ["labels.csv", "folders"])
def test_an_image_whose_name_is_not_utf8_is_a_reject(tmp_path: Path, layout: str) -> None:
    write(tmp_path / "positive/a.png", "1")
    (tmp_path / "positive" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"2")
    if layout == "labels.csv":
        labels_csv(tmp_path, "positive/a.png,Ann,positive")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == ["positive/a.png"]
    reason = "not named by labels.csv" if layout == "labels.csv" else "the name is not UTF-8"
    assert [(r.image, r.reason) for r in rejects] == [("positive/caf\udce9.png", reason)]


def test_images_behind_links_are_read(tmp_path: Path) -> None:
    write(tmp_path / "away/deep/a.png", "1")
    (tmp_path / "raw/neutral").mkdir(parents=True)
    (tmp_path / "raw/positive").symlink_to(tmp_path / "away")
    (tmp_path / "raw/neutral/more").symlink_to(tmp_path / "away/deep")
    records, rejects = read_raw(tmp_path / "raw", classes=EXPRESSIONS)
    assert [r.image for r in records] == ["neutral/more/a.png"]
    assert [r.image for r in rejects] == ["positive/deep/a.png"]


def test_what_is_no_file_is_a_reject_and_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "positive/a.png", "1")
    os.mkfifo(tmp_path / "positive/b.png")
    (tmp_path / "positive/c.png").symlink_to("nothing")
    _, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    reason = "the file is missing or cannot be read"
    assert [(r.image, r.reason) for r in rejects] == [
        ("positive/b.png", reason),
        ("positive/c.png", reason),
    ]


def test_images_without_a_class_folder_are_refused_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "1")
    with pytest.raises(DatasetError, match=r"none of 1 images .*\(not in a class folder\); expected"):
        read_raw(tmp_path, classes=EXPRESSIONS)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,Ann,hapy", "row 2: expression 'hapy' is not one of positive"),
        ("../a.png,Ann,positive", "is not a path inside"),
        ("images/../../a.png,Ann,positive", "is not a path inside"),
        ("/a.png,Ann,positive", "is not a path inside"),
        (",Ann,positive", "is not a path inside"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_raw(labels_csv(tmp_path, row), classes=EXPRESSIONS)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['a.png,"Ann,positive', "b.png,Bo,neutral"], "row 2: .*unexpected end of data"),
        (['a.png,"Ann,positive', 'b.png,"Bo,neutral'], "row 2: "),
        (["a.png,Ann,positive", 'b.png,"Bo', 'c.png,"Cy,negative'], "row 3: "),
        (["", 'b.png,"Bo\nLee",positive'], "row 3: a cell with a line break or a NUL"),
        (["a.png,Ann\0,positive"], "row 2: a cell with a line break or a NUL"),
        (["a.png,Ann,positive", "b.png,Lee, Bo,positive"], "row 3: 4 cells for 3 columns"),
    ],
)
def test_a_row_that_is_no_row_is_named_and_swallows_no_other(
    tmp_path: Path, rows: list[str], said: str
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / name, name)
    with pytest.raises(DatasetError, match=said):
        read_raw(labels_csv(tmp_path, *rows), classes=EXPRESSIONS)


def test_a_name_that_no_file_can_have_is_a_reject(tmp_path: Path) -> None:
    labels_csv(tmp_path, "a.png,Ann,positive", f"{'b' * 300}.png,Bo,positive")
    write(tmp_path / "a.png", "1")
    records, rejects = read_raw(tmp_path, classes=EXPRESSIONS)
    assert [r.image for r in records] == ["a.png"]
    assert [(r.image[0], r.reason) for r in rejects] == [("b", "the file is missing or cannot be read")]


def test_an_unknown_folder_is_a_label_error(tmp_path: Path) -> None:
    write(tmp_path / "hapy/a.png", "1")
    with pytest.raises(LabelError, match="expression 'hapy' is not one of"):
        read_raw(tmp_path, classes=EXPRESSIONS)


def test_a_csv_without_its_columns_says_which_it_has_and_which_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"columns \['file', 'person'\]; expected image and expression"):
        read_raw(labels_csv(tmp_path, "a,b", header="file,person"), classes=EXPRESSIONS)


@pytest.mark.parametrize("layout", ["absent", "empty"])
def test_a_folder_without_photographs_is_refused(tmp_path: Path, layout: str) -> None:
    raw = tmp_path if layout == "empty" else tmp_path / "absent"
    with pytest.raises(DatasetError, match=r"no such folder|no images found"):
        read_raw(raw, classes=EXPRESSIONS)


def test_a_folder_of_which_nothing_is_usable_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "surprise/a.png", "1")
    with pytest.raises(DatasetError, match="none of 1 images can be used"):
        read_raw(tmp_path, classes=EXPRESSIONS)
