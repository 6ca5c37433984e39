"""Follow a training run: show it while it goes, keep it as a table."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskfer.learning.training import SCORE, EpochReport, Trainer

METRICS = "metrics.json"
HISTORY = "history.csv"
FILES = (METRICS, HISTORY)
"""What `write` puts into a folder."""

Item = TypeVar("Item")


def follow(trainer: Trainer[Any]) -> None:
    """Run a trainer to its end; show a bar on a terminal's stderr, elsewhere a line on stdout per epoch."""
    title, total = trainer.task.title, trainer.plan.epochs
    with _bar() as bar:
        task = bar.add_task(title, total=total)
        for report in trainer.epochs():
            line = _line(title, report)
            bar.update(task, completed=report.epoch, description=line)
            if bar.disable:
                _say(line)


def figures(trainer: Trainer[Any]) -> dict[str, Any]:
    """Return what `metrics.json` says of a trainer that has run to its end."""
    best = max((report for report in trainer.history if report.is_best), key=lambda report: report.epoch)
    return {
        "best_epoch": best.epoch,
        "epochs": trainer.plan.epochs,
        "train_loss": round(best.loss, 5),
        "seconds": round(sum(report.seconds for report in trainer.history), 1),
        "val": {name: round(value, 5) for name, value in best.metrics.items() if name != SCORE},
    }


def shown(items: Iterable[Item], *, title: str, total: int) -> Iterator[Item]:
    """Yield the items of long work; a bar on a terminal's stderr, elsewhere a line per tenth on stdout."""
    with _bar() as bar:
        task = bar.add_task(title, total=total)
        for done, item in enumerate(items, 1):
            yield item
            bar.update(task, completed=done)
            if bar.disable and 10 * done // total > 10 * (done - 1) // total:
                _say(f"{title}: {100 * done // total} %")


def write(folder: Path, *, metrics: Mapping[str, Any], history: Sequence[EpochReport]) -> None:
    """Write `metrics.json` and `history.csv` into a stage's folder."""
    (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (folder / HISTORY).write_text(history_csv(history), encoding="utf-8")


def history_csv(history: Sequence[EpochReport]) -> str:
    """Return one line per epoch: epoch, loss, seconds and every metric."""
    text = io.StringIO()
    names = list(history[0].metrics) if history else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "loss", "seconds", *names])
    for report in history:
        figures = [report.loss, report.seconds, *(report.metrics[name] for name in names)]
        writer.writerow([report.epoch, *(f"{figure:.5g}" for figure in figures)])
    return text.getvalue()


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _line(title: str, report: EpochReport) -> str:
    figures = " ".join(f"{name} {value:.3f}" for name, value in report.metrics.items() if name != SCORE)
    resumed = " (done before)" if report.resumed else ""
    return f"{title} {report.epoch}/{report.epochs}: loss {report.loss:.3f}, val {figures}, " + (
        f"{report.seconds:.0f} s{resumed}"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
