"""`maskfer evaluate`: judge any release, registered or not, on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskfer.cli import app

if TYPE_CHECKING:
    from rich.table import Table


@app.command(
    epilog="Examples:\n\n`maskfer evaluate --model maskfer@champion --data dataset --json metrics.json`\n\n"
    "`maskfer evaluate --model out/release --data dataset --split val --json val.json --plots plots`",
)
def evaluate(
    model: Annotated[str, typer.Option(help="NAME@champion, NAME@v3, or a release folder.")],
    data: Annotated[Path, typer.Option(help="Folder with faces.parquet.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; what else is in it stays.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    params: Annotated[Path | None, typer.Option(help="params.yaml; its `evaluation` part is used.")] = None,
) -> None:
    """Judge a model on a dataset: masked, unmasked, by orientation and by class."""
    from rich.console import Console

    from maskfer import atomic
    from maskfer.config import Params, Settings
    from maskfer.data.table import SPLITS
    from maskfer.errors import InputError
    from maskfer.registry import open_release
    from maskfer.stages import evaluate as stage

    if split not in SPLITS:
        raise InputError(f"--split {split!r}: expected one of {', '.join(SPLITS)}")
    if plots is not None:
        atomic.check_folder(plots)
    evaluation_params = Params.load(params).evaluation
    release = open_release(model, settings=Settings.load())
    faces = data / "faces.parquet"
    evaluation = stage.judge_release(release, faces, split=split, params=evaluation_params)
    metrics = stage.described(evaluation, release, faces, split=split)
    if json_out is not None:
        atomic.write_text(json_out, stage.to_text({"model": model, **metrics}))
    if plots is not None:
        from maskfer.evaluation.plots import write_plots

        write_plots(evaluation, plots, bins=evaluation_params.calibration_bins)
    typer.echo(f"{model} on {faces}, {split}")
    Console().print(_table(metrics))


def _table(metrics: dict[str, Any]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    heatmap = "-" if metrics["heatmap_iou"] is None else f"{metrics['heatmap_iou']:.3f}"
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"masked or not: {metrics['mask_accuracy']:.3f} of {metrics['rows']} faces right; "
        f"heatmap IoU {heatmap}",
        caption_justify="left",
    )
    table.add_column("slice")
    for column in ("faces", "accuracy", "macro-F1", "ECE"):
        table.add_column(column, justify="right")
    slices = metrics["slices"]
    rows = {"all": metrics, "unmasked": slices["unmasked"], "masked": slices["masked"]}
    rows |= {f"looks {name}": part for name, part in slices["orientation"].items()}
    for name, part in rows.items():
        figures = (part[key] for key in ("accuracy", "macro_f1", "ece"))
        table.add_row(name, str(part["n"]), *("-" if value is None else f"{value:.3f}" for value in figures))
    return table
