"""Any labelled folder becomes records: which picture, who, what expression, masked or not.

Three layouts are read:

    RAW/labels.csv            columns image and at least one of expression, emotion, mask; optional person,
                              split. An image is looked for in RAW, then in RAW/images.
    RAW/{train,eval}/CLASS/   the layout of LFW-FER (Yang et al. 2020, §3); eval is the test split, and the
                              person is read off file names such as Some_Name_0001.jpg
    RAW/CLASS/                a folder per class, searched through
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from maskfer.data.rejects import Reject
from maskfer.errors import DatasetError, LabelError
from maskfer.labels import EMOTIONS, EXPRESSIONS, expression_of, label_column

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_SPLITS: Final = {"train": "train", "val": "val", "test": "test", "eval": "test"}
_MASKS: Final = {"masked": True, "unmasked": False, "": None}
_LFW_NAME: Final = re.compile(r"(?P<person>.+)_\d{4}")
_STAGE: Final = "ingest"


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled picture of the raw folder."""

    image: str
    """Path relative to the raw folder, with forward slashes."""
    sha256: str
    person: str | None
    emotion: str | None
    expression: str | None
    split: str | None
    """`train`, `val` or `test`; None until `split_records` decides."""
    is_masked: bool | None
    """The person in the photograph wears a real mask; None, while labels are read, where none says so."""


def read_raw(raw: Path, *, classes: tuple[str, ...]) -> tuple[list[Record], list[Reject]]:
    """Read the raw folder's labels: records sorted by image, and what was dropped with its reason.

    Every image that the layout names is in exactly one of the two lists. Raises `DatasetError` when the
    folder has no layout, no images or no usable label, and `LabelError` when a label is not a known name.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; expected a folder of labelled photographs")
    labelled = sorted(_labelled(raw), key=lambda record: record.image)
    if not labelled:
        raise DatasetError(
            f"{raw}: no images found; expected a folder per class ({', '.join(EXPRESSIONS)}), a labels.csv "
            f"with columns image and expression, or train|eval/CLASS folders"
        )
    records, rejects = _with_sha256(raw, labelled)
    records, unlabelled = _with_a_use(records, classes=classes)
    if not records:
        reasons = "; ".join(sorted({reject.reason for reject in [*rejects, *unlabelled]}))
        raise DatasetError(f"{raw}: none of {len(labelled)} images can be used: {reasons}")
    return records, rejects + unlabelled


def _labelled(raw: Path) -> Iterator[Record]:
    if (raw / "labels.csv").is_file():
        return _from_csv(raw)
    sides = [side for side in ("train", "eval", "test", "val") if (raw / side).is_dir()]
    if sides:
        return _from_sides(raw, sides)
    return _from_folders(raw, raw, split=None)


def _from_folders(raw: Path, folder: Path, *, split: str | None) -> Iterator[Record]:
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        images = sorted(path for path in child.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            continue
        emotion, expression = _label(child.name, where=f"folder {child}")
        for image in images:
            name = image.relative_to(raw).as_posix()
            yield Record(name, "", None, emotion, expression, split, None)


def _from_sides(raw: Path, sides: list[str]) -> Iterator[Record]:
    for side in sides:
        for record in _from_folders(raw, raw / side, split=_SPLITS[side]):
            name = _LFW_NAME.fullmatch(Path(record.image).stem)
            yield replace(record, person=name["person"] if name else None)


def _from_csv(raw: Path) -> Iterator[Record]:
    path = raw / "labels.csv"
    seen: dict[str, int] = {}
    for number, row in _rows(path):
        yield _record(raw, row, where=f"{path} row {number}", seen=seen, number=number)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows below the header, by column, with their numbers."""
    lines = _cells(path)
    _, header = next(lines, (1, []))
    if "image" not in header or not {"expression", "emotion", "mask"} & set(header):
        raise DatasetError(
            f"{path}: columns {sorted(header)}; expected image and expression (or emotion, or "
            f"mask), and optionally person, split"
        )
    for number, cells in lines:
        if len(cells) > len(header):
            raise DatasetError(
                f"{path} row {number}: {len(cells)} cells for {len(header)} columns; "
                "put a cell that holds a comma in quotes"
            )
        if cells:
            yield number, dict(zip(header, cells, strict=False))


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the file's rows with their numbers, from 1; raises `DatasetError` naming one that is broken."""
    number = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.reader(file, strict=True), start=1):
                # A quote without its partner takes the rows up to the next quote into its cell.
                if any(character in cell for cell in cells for character in "\r\n\0"):
                    raise DatasetError(
                        f"{path} row {number}: a cell with a line break or a NUL; expected one line a row, "
                        "look for a quote that is not closed"
                    )
                yield number, cells
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a UTF-8 file: {error}") from error
    except csv.Error as error:
        raise DatasetError(
            f"{path} row {number + 1}: not comma-separated: {error}; look for a quote that is not closed"
        ) from error


def _record(raw: Path, row: dict[str, str], *, where: str, seen: dict[str, int], number: int) -> Record:
    cell = {name: row.get(name, "").strip() for name in ("image", "person", "split")}
    label = {name: row.get(name, "").strip().lower() for name in ("expression", "emotion", "mask")}
    image = cell["image"]
    if not image or not (raw / image).resolve().is_relative_to(raw.resolve()):
        raise DatasetError(f"{where}: image {image!r} is not a path inside {raw}")
    if not _is_file(raw / image) and _is_file(raw / "images" / image):
        image = f"images/{image}"
    if image in seen:
        raise DatasetError(f"{where}: image {image!r} is already in row {seen[image]}; keep one row an image")
    seen[image] = number
    if cell["split"] and cell["split"] not in _SPLITS:
        raise DatasetError(f"{where}: split {cell['split']!r} is not one of {', '.join(_SPLITS)}")
    if label["mask"] not in _MASKS:
        raise LabelError(f"{where}: mask {label['mask']!r} is not one of masked, unmasked")
    emotion, expression = _label(label["expression"], where=where, emotion=label["emotion"])
    return Record(
        image=Path(image).as_posix(),
        sha256="",
        person=cell["person"] or None,
        emotion=emotion,
        expression=expression,
        split=_SPLITS[cell["split"]] if cell["split"] else None,
        is_masked=_MASKS[label["mask"]],
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name that is too long
        return False


def _label(name: str, *, where: str, emotion: str = "") -> tuple[str | None, str | None]:
    """Emotion and expression of one label; an emotion name in the place of an expression is mapped."""
    name = name.lower()
    if emotion and emotion not in EMOTIONS:
        raise LabelError(f"{where}: emotion {emotion!r} is not one of {', '.join(EMOTIONS)}")
    if name in EXPRESSIONS:
        return emotion or ("neutral" if name == "neutral" else None), name
    if name in EMOTIONS:
        return name, expression_of(name)
    if not name:
        return emotion or None, expression_of(emotion) if emotion else None
    raise LabelError(
        f"{where}: expression {name!r} is not one of {', '.join(EXPRESSIONS)}, nor an emotion "
        f"({', '.join(EMOTIONS)})"
    )


def _with_sha256(raw: Path, labelled: list[Record]) -> tuple[list[Record], list[Reject]]:
    """Fill in the sha256; drop what cannot be read and what stands twice, which would leak between splits."""
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda record: _sha256(raw / record.image), labelled))
    records: list[Record] = []
    rejects: list[Reject] = []
    first: dict[str, str] = {}
    for record, digest in zip(labelled, digests, strict=True):
        if digest is None:
            rejects.append(Reject(record.image, _STAGE, "the file is missing or cannot be read"))
        elif digest in first:
            reason = f"same bytes as an earlier image: {first[digest]}"
            rejects.append(Reject(record.image, _STAGE, reason))
        else:
            first[digest] = record.image
            records.append(replace(record, sha256=digest))
    return records, rejects


def _with_a_use(records: list[Record], *, classes: tuple[str, ...]) -> tuple[list[Record], list[Reject]]:
    """Drop pictures with neither a label among the classes nor a mask label of their own."""
    column = label_column(classes)
    kept: list[Record] = []
    rejects: list[Reject] = []
    for record in records:
        label = record.expression if column == "expression" else record.emotion
        if label in classes or record.is_masked is not None:
            # A face of which only the expression is known wears no mask.
            kept.append(replace(record, is_masked=bool(record.is_masked)))
        else:
            got = record.emotion or record.expression or "none"
            rejects.append(Reject(record.image, _STAGE, f"no label among the classes: {got}"))
    return kept, rejects


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
