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
from pathlib import Path, PurePosixPath
from typing import Final
from unicodedata import normalize

from maskfer.data.files import files_below
from maskfer.data.rejects import Reject
from maskfer.errors import DatasetError, LabelError
from maskfer.labels import EMOTIONS, EXPRESSIONS, expression_of, label_column

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_NO_PICTURES: Final = frozenset(
    {".csv", ".dvc", ".json", ".md", ".parquet", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
)
"""Suffixes of what lies beside pictures: labels, annotations, notes. Any other file counts as an image."""
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

    Every image below the folder, and every image that its labels.csv names, is in exactly one of the two
    lists. Raises `DatasetError` when the folder has no layout, no images or no usable label, and `LabelError`
    when a label is not a known name.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; expected a folder of labelled photographs")
    names = [file.relative_to(raw).as_posix() for file in files_below(raw)]
    labelled, elsewhere = _labelled(raw, names)
    if not labelled:
        got = f"none of {len(elsewhere)} images has a label ({_reasons(elsewhere)})"
        raise DatasetError(
            f"{raw}: {got if elsewhere else 'no images found'}; expected a folder per class "
            f"({', '.join(EXPRESSIONS)}), a labels.csv with columns image and expression, or "
            "train|eval/CLASS folders"
        )
    records, unreadable = _with_sha256(raw, labelled, present=frozenset(names))
    records, unlabelled = _with_a_use(records, classes=classes)
    rejects = [*elsewhere, *unreadable, *unlabelled]
    if not records:
        count = len(labelled) + len(elsewhere)
        raise DatasetError(f"{raw}: none of {count} images can be used: {_reasons(rejects)}")
    return records, rejects


def _reasons(rejects: list[Reject]) -> str:
    return "; ".join(sorted({reject.reason for reject in rejects}))


def _labelled(raw: Path, names: list[str]) -> tuple[list[Record], list[Reject]]:
    """Return a record for every image that the layout labels, sorted, and a reject for every other one."""
    images = [name for name in names if PurePosixPath(name).suffix.lower() not in _NO_PICTURES]
    if "labels.csv" in names:
        records = list(_from_csv(raw, frozenset(names)))
        named = {record.image for record in records}
        rejects = [Reject(name, _STAGE, "not named by labels.csv") for name in images if name not in named]
    else:
        sides = sorted({name.split("/")[0] for name in images if "/" in name} & set(_SPLITS))
        found = [_from_folder(raw, PurePosixPath(name), sides=sides) for name in images]
        records = [one for one in found if isinstance(one, Record)]
        rejects = [one for one in found if isinstance(one, Reject)]
    return sorted(records, key=lambda record: record.image), rejects


def _from_folder(raw: Path, image: PurePosixPath, *, sides: list[str]) -> Record | Reject:
    """Label an image by the folder it lies in, which is in one of the `sides` where there are some."""
    folders = list(image.parts[:-1])
    side = folders.pop(0) if sides and folders else None
    if sides and side not in sides:
        return Reject(str(image), _STAGE, f"not in the folder {' or '.join(sides)}")
    if not folders:
        return Reject(str(image), _STAGE, "not in a class folder")
    if image.suffix.lower() not in IMAGE_SUFFIXES:
        return Reject(str(image), _STAGE, f"suffix not read: {image.suffix or 'none'}")
    if str(image).encode("utf-8", "ignore").decode("utf-8") != str(image):
        return Reject(str(image), _STAGE, "the name is not UTF-8")
    emotion, expression = _label(folders[0], where=f"folder {raw / (side or '') / folders[0]}")
    name = _LFW_NAME.fullmatch(image.stem) if side else None
    person, split = _person(name["person"]) if name else None, _SPLITS[side] if side else None
    return Record(str(image), "", person, emotion, expression, split, None)


def _person(name: str) -> str:
    # macOS takes an accented letter apart, and one person in two spellings would be two.
    return normalize("NFC", name)


def _from_csv(raw: Path, present: frozenset[str]) -> Iterator[Record]:
    path = raw / "labels.csv"
    seen: dict[str, int] = {}
    for number, row in _rows(path):
        where = f"{path} row {number}"
        record = _record(raw, row, where=where, present=present)
        if (image := record.image) in seen:
            raise DatasetError(
                f"{where}: image {image!r} is already in row {seen[image]}; keep one row an image"
            )
        seen[image] = number
        yield record


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
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a UTF-8 file: {error}") from error
    except csv.Error as error:
        raise DatasetError(
            f"{path} row {number + 1}: not comma-separated: {error}; look for a quote that is not closed"
        ) from error


def _record(raw: Path, row: dict[str, str], *, where: str, present: frozenset[str]) -> Record:
    cell = {name: row.get(name, "").strip() for name in ("image", "person", "split")}
    label = {name: row.get(name, "").strip().lower() for name in ("expression", "emotion", "mask")}
    path = PurePosixPath(cell["image"])
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: image {cell['image']!r} is not a path inside {raw}")
    spellings = dict.fromkeys((str(path), normalize("NFC", str(path)), normalize("NFD", str(path))))
    places = [folder + spelling for folder in ("", "images/") for spelling in spellings]
    if cell["split"] and cell["split"] not in _SPLITS:
        raise DatasetError(f"{where}: split {cell['split']!r} is not one of {', '.join(_SPLITS)}")
    if label["mask"] not in _MASKS:
        raise LabelError(f"{where}: mask {label['mask']!r} is not one of masked, unmasked")
    emotion, expression = _label(label["expression"], where=where, emotion=label["emotion"])
    return Record(
        image=next((place for place in places if place in present), str(path)),
        sha256="",
        person=_person(cell["person"]) or None,
        emotion=emotion,
        expression=expression,
        split=_SPLITS[cell["split"]] if cell["split"] else None,
        is_masked=_MASKS[label["mask"]],
    )


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


def _with_sha256(
    raw: Path, labelled: list[Record], *, present: frozenset[str]
) -> tuple[list[Record], list[Reject]]:
    """Fill in the sha256; drop what cannot be read and what stands twice, which would leak between splits."""

    def digest_of(record: Record) -> str | None:
        return _sha256(raw / record.image) if record.image in present else None

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest_of, labelled))
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
        # Not what is no file: to read a pipe is to wait for who writes to it.
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except OSError:
        return None
