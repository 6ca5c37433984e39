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
    "unmasked accuracy",
    "unmasked macro-F1",
    "M parameters",
    "M multiply-adds",
    "ms a face",
    "heatmap IoU",
    "real masks",
)


@dataclass(frozen=True)
class Row:
    """One system and what each of its seeds gave."""

    title: str
    results: Sequence[Mapping[str, Any]]

    def cell(self, *path: str, digits: int = 3) -> str:
        """Return mean and, from two seeds on, standard deviation of a figure; a dash where it is unknown."""
        values = [value for result in self.results if (value := _at(result, path)) is not None]
        if not values:
            return "-"
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{mean(values):.{digits}f}{spread}"


def markdown(rows: Sequence[Row], *, orientations: Sequence[str], classes: Sequence[str]) -> str:
    """Return the tables: accuracy and cost, orientations, classes."""
    main = _table(
        _COLUMNS,
        [
            [
                row.title,
                str(len(row.results)),
                *(
                    row.cell(kind, name)
                    for kind in ("masked", "unmasked")
                    for name in ("accuracy", "macro_f1")
                ),
                _millions(row, "parameters"),
                _millions(row, "multiply_adds"),
                row.cell("ms_a_face", digits=2),
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
    return f"{main}\n\n{looks}\n\n{by_class}\n"


def replace_section(page: Path, text: str) -> None:
    """Put `text` between the marks of `page`, or at its end where it has none; the rest stays as it is.

    Raises `InputError` where only one of the marks is there.
    """
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    if (BEGIN in before) != (END in before):
        raise InputError(
            f"{page}: one of the marks {BEGIN!r} and {END!r} is missing; put both back or remove both"
        )
    section = f"{BEGIN}\n{text}{END}"
    if BEGIN in before:
        head, rest = before.split(BEGIN, 1)
        after = head + section + rest.split(END, 1)[1]
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    atomic.write_text(page, after)


def _at(result: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def _millions(row: Row, name: str) -> str:
    value = _at(row.results[0], [name])
    return "-" if value is None else f"{value / 1e6:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, align, *rows))
