"""The pictures of evaluations, as PNG files. The one home of matplotlib; no picture shows a face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from maskfer import atomic
from maskfer.evaluation.accuracy_table import Row
from maskfer.evaluation.judge import Evaluation
from maskfer.metrics import Figures, calibration_table

_INK: Final = "#1f2933"
_QUIET: Final = "#9aa5b1"
_MASKED: Final = "#2364aa"
_UNMASKED: Final = "#e07a1f"
_ACCURACY: Final = "#2a7f62"
_MACRO_F1: Final = "#8fc1a9"
_EXAMPLES: Final = 6


def write_plots(evaluation: Evaluation, out: Path, *, bins: int) -> list[Path]:
    """Write the pictures of an evaluation into the folder `out` and return them.

    What cannot be drawn (no labels, no masked face) is left out, not drawn empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Figure | None] = {
        "confusion.png": _confusion(evaluation),
        "calibration.png": _calibration(evaluation, bins=bins),
        "slices.png": _slices(evaluation),
        "classes.png": _classes(evaluation),
        "heatmaps.png": _heatmaps(evaluation),
    }
    written: list[Path] = []
    for name, figure in pictures.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # of an evaluation before, it would pass for one of this
            continue
        _save(figure, out / name)
        written.append(out / name)
    return written


def write_accuracy(rows: Sequence[Row], out: Path) -> None:
    """Draw the macro-F1 of every row of an accuracy table into the PNG file `out`, a dot for each seed."""
    figure = Figure(figsize=(7.2, 1.2 + 0.34 * len(rows)), layout=_layout())
    axes = figure.subplots()
    for kind, colour in (("unmasked", _UNMASKED), ("masked", _MASKED)):
        for place, row in enumerate(rows):
            values = row.values(kind, "macro_f1")
            label = kind if place == 0 else None
            axes.scatter(
                values, [place] * len(values), s=26, color=colour, alpha=0.55, linewidth=0, label=label
            )
            if values:
                axes.vlines(float(np.mean(values)), place - 0.28, place + 0.28, color=colour, linewidth=1.6)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("macro-F1, test people (dot: a seed, line: the mean)")
    axes.grid(axis="x", color=_QUIET, alpha=0.25)
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    _save(figure, out)


def _save(figure: Figure, out: Path) -> None:
    FigureCanvasAgg(figure)
    # No software version inside: the same evaluation gives the same bytes.
    with atomic.new_file(out) as file:
        figure.savefig(file, format="png", dpi=144, metadata={"Software": None})


def _parts(evaluation: Evaluation) -> list[tuple[str, Figures, str]]:
    parts = [("unmasked", evaluation.unmasked, _UNMASKED), ("masked", evaluation.masked, _MASKED)]
    return [part for part in parts if part[1].n]


def _confusion(evaluation: Evaluation) -> Figure | None:
    parts = _parts(evaluation)
    if not parts:
        return None
    classes = evaluation.predictions.classes
    side = 1.6 + 0.75 * len(classes)
    figure = Figure(figsize=(side * len(parts) + 0.6, side), layout=_layout())
    for axes, (name, part, _) in zip(_row(figure, len(parts)), parts, strict=True):
        share = part.confusion / np.maximum(part.confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(part.confusion):
            axes.text(
                column,
                row,
                f"{share[row, column]:.0%}\n{count}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share[row, column] > 0.55 else _INK,
            )
        axes.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) < 5 else 45)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("answered")
        axes.set_ylabel("true")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{name}, n = {part.n}", fontsize=11, loc="left", color=_INK)
    return figure


def _calibration(evaluation: Evaluation, *, bins: int) -> Figure | None:
    parts = _parts(evaluation)
    if not parts:
        return None
    figure = Figure(figsize=(5.2, 5.6), layout=_layout())
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)))
    upper.text(0.03, 0.085, "confidence = accuracy", color=_QUIET, fontsize=8, rotation=45)
    predictions = evaluation.predictions
    for offset, (name, part, colour) in enumerate(parts):
        rows = predictions.is_masked if name == "masked" else ~predictions.is_masked
        rows = rows & (predictions.labels >= 0)
        table = np.array(
            calibration_table(predictions.labels[rows], predictions.probabilities[rows], bins=bins)
        )
        label = f"{name}: ECE {part.ece:.3f}"
        upper.plot(table[:, 0], table[:, 1], color=colour, linewidth=1, alpha=0.4)
        size = 10 + 140 * table[:, 2] / part.n
        upper.scatter(table[:, 0], table[:, 1], s=size, color=colour, zorder=3, label=label, clip_on=False)
        width = 0.4 / bins
        center = (np.ceil(table[:, 0] * bins) - 0.5) / bins
        lower.bar(center + (offset - 0.5) * width, table[:, 2] / part.n, width=width, color=colour)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share answered right")
    upper.legend(frameon=False, loc="upper left", fontsize=9, markerscale=0.6)
    lower.set(xlabel="confidence of the answer", ylabel="share of\nfaces")
    for axes in (upper, lower):
        _plain(axes)
    return figure


def _slices(evaluation: Evaluation) -> Figure | None:
    named = {
        "all": evaluation.overall,
        "unmasked": evaluation.unmasked,
        "masked": evaluation.masked,
        **{f"looks {name}": part for name, part in evaluation.orientation.items()},
    }
    drawn = {name: part for name, part in named.items() if part.n}
    if not drawn:
        return None
    figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(drawn)), layout=_layout())
    axes = figure.subplots()
    places = np.arange(len(drawn))[::-1]
    _bars(axes, places + 0.19, [part.accuracy or 0.0 for part in drawn.values()], "accuracy", _ACCURACY)
    _bars(axes, places - 0.19, [part.macro_f1 or 0.0 for part in drawn.values()], "macro-F1", _MACRO_F1)
    axes.set_yticks(places, [f"{name}  (n = {part.n})" for name, part in drawn.items()])
    _finish_bars(figure, axes)
    return figure


def _classes(evaluation: Evaluation) -> Figure | None:
    parts = _parts(evaluation)
    if not parts:
        return None
    classes = evaluation.predictions.classes
    figure = Figure(figsize=(7.2, 1.1 + 0.5 * len(classes)), layout=_layout())
    axes = figure.subplots()
    places = np.arange(len(classes))[::-1]
    shifts = [0.19, -0.19] if len(parts) == 2 else [0.0]
    for shift, (name, part, colour) in zip(shifts, parts, strict=True):
        values = [part.per_class[one].f1 or 0.0 for one in classes]
        _bars(axes, places + shift, values, f"F1, {name}", colour)
    counts = [" / ".join(str(part.per_class[one].n) for _, part, _ in parts) for one in classes]
    axes.set_yticks(places, [f"{one}  (n = {count})" for one, count in zip(classes, counts, strict=True)])
    _finish_bars(figure, axes)
    return figure


def _heatmaps(evaluation: Evaluation) -> Figure | None:
    masked = evaluation.predictions.is_masked
    rows = [("unmasked", evaluation.heatmaps[~masked]), ("masked", evaluation.heatmaps[masked])]
    rows = [(name, maps) for name, maps in rows if len(maps)]
    columns = 1 + min(_EXAMPLES, max(len(maps) for _, maps in rows))
    figure = Figure(figsize=(1.25 * columns + 1.2, 1.35 * len(rows) + 0.5), layout=_layout())
    grid = np.array(figure.subplots(len(rows), columns, squeeze=False))
    image = None
    for line, (name, maps) in zip(grid, rows, strict=True):
        chosen = np.unique(np.linspace(0, len(maps) - 1, columns - 1).astype(int))
        shown = [maps.mean(axis=0), *maps[chosen]]
        for index, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if index < len(shown):
                image = axes.imshow(shown[index], cmap="magma", vmin=0, vmax=1, interpolation="bilinear")
        line[0].set_ylabel(f"{name}\nn = {len(maps)}", fontsize=9, color=_INK)
    grid[0, 0].set_title("mean", fontsize=9, color=_INK)
    grid[0, 1].set_title("single faces", fontsize=9, color=_INK, loc="left")
    if image is not None:
        bar = figure.colorbar(image, ax=grid.ravel().tolist(), shrink=0.8, ticks=[0, 0.5, 1])
        bar.set_label("H_m", fontsize=9)
        bar.outline.set_visible(False)
    return figure


def _bars(axes: Axes, places: Float[np.ndarray, " n"], values: list[float], label: str, colour: str) -> None:
    axes.barh(places, values, height=0.36, color=colour, label=label)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.008, place, f"{value:.2f}", va="center", fontsize=8, color=_INK)


def _finish_bars(figure: Figure, axes: Axes) -> None:
    axes.set_xlim(0, 1.06)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_INK, labelsize=9)


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)


def _row(figure: Figure, columns: int) -> list[Axes]:
    return list(np.array(figure.subplots(1, columns, squeeze=False)).ravel())
