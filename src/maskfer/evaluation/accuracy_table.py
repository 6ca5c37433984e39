"""The accuracy table as a page's section: what trials with several seeds found, mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from maskfer import atomic
from maskfer.errors import InputError

BEGIN: Final = "<!-- accuracy table: begin; written by `maskfer bench accuracy` -->"
END: Final = "<!-- accuracy table: end -->"
_COLUMNS: Final = (
    "system",
    "seeds",
    "masked accuracy",
    "masked macro-F1",
    "behind the first row",
    "unmasked accuracy",
    "unmasked macro-F1",
    "M parameters",
    "M multiply-adds",
    "ms a face",
    "heatmap IoU",
    "real masks",
)
_NETWORKS: Final = (
    ("PSNR, masked", "inpainting", "psnr_masked", 1),
    ("inpainted", "inpainting", "psnr", 1),
    ("SSIM, masked", "inpainting", "ssim_masked", 3),
    ("inpainted", "inpainting", "ssim", 3),
    ("NME, unmasked", "landmarks", "nme_unmasked", 4),
    ("masked", "landmarks", "nme_masked", 4),
    ("masked, inpainted", "landmarks", "nme_masked_inpainted", 4),
    ("orientation by landmarks", "landmarks", "orientation_agreement", 3),
    ("by the mask classifier", "landmarks", "orientation_agreement_classifier", 3),
)
"""Columns: title, where the figure is, digits."""


@dataclass(frozen=True)
class Row:
    """One system and what each of its seeds gave."""

    title: str
    results: Mapping[int, Mapping[str, Any]]
    """Seed -> figures."""

    def cell(self, *path: str, digits: int = 3) -> str:
        """Return mean and, from two seeds on, standard deviation of a figure; a dash where it is unknown."""
        return _summary(self.values(*path), digits=digits)

    def values(self, *path: str) -> list[float]:
        """Return a figure of every seed that has it."""
        return [value for result in self.results.values() if (value := _at(result, path)) is not None]

    def behind(self, other: Row, *path: str, digits: int = 3) -> str:
        """Return how far below the other's this one's figure is, over the seeds of both; else a dash."""
        if other is self:
            return "-"
        gaps = [
            theirs - mine
            for seed in self.results.keys() & other.results.keys()
            if (mine := _at(self.results[seed], path)) is not None
            and (theirs := _at(other.results[seed], path)) is not None
        ]
        return _summary(gaps, digits=digits, sign="+")


def markdown(rows: Sequence[Row], *, orientations: Sequence[str], classes: Sequence[str]) -> str:
    """Return the tables: accuracy and cost, orientations, classes, and the networks before the expression."""
    main = _table(
        _COLUMNS,
        [
            [
                row.title,
                str(len(row.results)),
                row.cell("masked", "accuracy"),
                row.cell("masked", "macro_f1"),
                row.behind(rows[0], "masked", "macro_f1"),
                row.cell("unmasked", "accuracy"),
                row.cell("unmasked", "macro_f1"),
                _of_all_seeds(row, "parameters", unit=1e6),
                _of_all_seeds(row, "multiply_adds", unit=1e6),
                _of_all_seeds(row, "ms_a_face", digits=2),
                row.cell("heatmap_iou"),
                row.cell("real_mask_accuracy"),
            ]
            for row in rows
        ],
    )
    looks = _table(
        ["accuracy by orientation", *orientations],
        [[row.title, *(row.cell("orientation", name, "accuracy") for name in orientations)] for row in rows],
    )
    by_class = _table(
        ["F1 on masked faces", *classes],
        [[row.title, *(row.cell("masked", "per_class", name, "f1") for name in classes)] for row in rows],
    )
    parts = [main, looks, by_class]
    if readers := [row for row in rows if row.values("landmarks", "nme_masked")]:
        cells = [
            [row.title, *(row.cell(part, name, digits=digits) for _, part, name, digits in _NETWORKS)]
            for row in readers
        ]
        titles = [title for title, *_ in _NETWORKS]
        parts.append(_table(["networks before the expression", *titles], cells))
    return "\n\n".join(parts) + "\n"


def replace_section(page: Path, text: str) -> None:
    """Put `text` between the marks of `page`, or at its end where it has none; the rest stays as it is.

    Raises `InputError` where only one of the marks is there.
    """
    before = checked_page(page)
    section = f"{BEGIN}\n{text}{END}"
    if BEGIN in before:
        head, rest = before.split(BEGIN, 1)
        after = head + section + rest.split(END, 1)[1]
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    atomic.write_text(page, after)


def checked_page(page: Path) -> str:
    """Return what is on a page, or a title; raises `InputError` where a section could not be put into it."""
    if page.exists() and not page.is_file():
        raise InputError(f"{page}: is no file; name a page, as docs/results.md")
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    if (BEGIN in text) != (END in text):
        raise InputError(
            f"{page}: one of the marks {BEGIN!r} and {END!r} is missing; put both back or remove both"
        )
    return text


def _at(result: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def _summary(values: Sequence[float], *, digits: int, sign: str = "") -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{spread}"


def _of_all_seeds(row: Row, name: str, *, unit: float = 1.0, digits: int = 1) -> str:
    # The same for every seed.
    return next((f"{value / unit:.{digits}f}" for value in row.values(name)), "-")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, align, *rows))
