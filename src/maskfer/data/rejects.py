"""What is dropped, and why: `rejects.csv`, so that the counts of every step add up to its input."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from maskfer import atomic
from maskfer.errors import DatasetError

FILE_NAME: Final = "rejects.csv"
COLUMNS: Final = ("image", "stage", "reason")


@dataclass(frozen=True, slots=True, order=True)
class Reject:
    """One image or face that went no further."""

    image: str
    """Path relative to the raw folder."""
    stage: str
    reason: str


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write the rejects, sorted; a file with only the header says that nothing was dropped.

    Bytes of a name that are not UTF-8 are written as escapes.
    """
    with (
        atomic.new_file(path) as work,
        work.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(reject) for reject in sorted(rejects))


def read_rejects(path: Path) -> list[Reject]:
    """Read what `write_rejects` wrote; a missing file means none. Raises `DatasetError` on another file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DatasetError(
                f"{path}: columns {reader.fieldnames}; expected a dataset's, {', '.join(COLUMNS)}"
            )
        return [Reject(row["image"], row["stage"], row["reason"]) for row in reader]


def count_reasons(rejects: Iterable[Reject]) -> dict[tuple[str, str], int]:
    """How many for each stage and reason, commonest first; what a reason quotes after ':' is left out."""
    counts = Counter((reject.stage, reject.reason.split(":")[0]) for reject in rejects)
    return dict(counts.most_common())
