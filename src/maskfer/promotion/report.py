"""A decision for readers: as a table on the terminal and as Markdown. Both take `Decision.to_json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_COLUMNS: Final = (
    "slice",
    "figure",
    "faces",
    "people",
    "candidate",
    "champion",
    "difference",
    "not below",
    "allowed",
    "verdict",
)
_STYLES: Final = {"passes": "green", "worse": "bold red", "not judged": "yellow"}


def decision_table(decision: Mapping[str, Any]) -> Table:
    """Return the comparison as a table that fits 80 columns, the verdict under it."""
    table = Table(
        title=_title(decision),
        title_justify="left",
        title_style="bold",
        # As text: a reason may quote what a person wrote, which is no markup.
        caption=Text(
            f"{'promoted' if decision['promote'] else 'not promoted'}: {decision['reason']}",
            style="table.caption",
        ),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("slice", "figure", "faces", "new", "champion", "not below", "allowed", "verdict"):
        left = column in {"slice", "figure", "verdict"}
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "verdict")
    for one in decision["comparisons"]:
        name, figure, faces, _, new, champion, _, bound, allowed, verdict = _row(one)
        bound = bound.split(" ")[0]  # the confidence is in decision.md
        table.add_row(
            name, figure, faces, new, champion, bound, allowed, Text(verdict, style=_STYLES[one["verdict"]])
        )
    return table


def to_markdown(decision: Mapping[str, Any], *, of: str) -> str:
    """Return the decision about version `of` as a Markdown page."""
    lines = [
        f"# {of}: {'promoted' if decision['promote'] else 'not promoted'}",
        "",
        f"{decision['reason']}.",
        "",
        *(f"- {note}" for note in decision["notes"]),
    ]
    if decision["comparisons"]:
        lines += [
            "",
            f"{_title(decision)}. *Not below*: with the stated confidence the difference is not below this "
            "(paired bootstrap over people); it passes where that is not below *allowed*.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'|'.join('---' for _ in _COLUMNS)}|",
            *(f"| {' | '.join(_row(one))} |" for one in decision["comparisons"]),
        ]
    return "\n".join(lines) + "\n"


def _title(decision: Mapping[str, Any]) -> str:
    champion = decision["champion"]
    if champion is None and not decision["comparisons"]:
        return "Candidate, compared with nobody"
    return f"Candidate against {'the majority class' if champion is None else f'champion v{champion}'}"


def _row(one: Mapping[str, Any]) -> list[str]:
    verdict = f"{one['verdict']} ({one['note']})" if one["note"] else str(one["verdict"])
    bound = "-" if one["bound"] is None else f"{one['bound']:+.3f} ({one['confidence']:.0%})"
    return [
        one["slice"],
        one["metric"],
        str(one["n"]),
        str(one["people"]),
        _number(one["candidate"]),
        _number(one["champion"]),
        _number(one["difference"], sign="+"),
        bound,
        f"{one['required']:+.3f}",
        verdict,
    ]


def _number(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"
