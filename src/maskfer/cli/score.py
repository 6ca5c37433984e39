"""`maskfer score` and `maskfer worker`: archives of footage through the queue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli import app


@app.command(
    epilog="Examples:\n\n`maskfer score interview.mp4 --out scores`\n\n"
    "`maskfer score archive/*.mp4 --out scores --fps 2 --workers 4`\n\n"
    "`MASKFER_BROKER_URL=redis://broker:6379/0 maskfer score clip.mp4 --out scores`",
    rich_help_panel="Answer",
)
def score(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    out: Annotated[Path, typer.Option(help="Folder for one Parquet table per video.")],
    model: Annotated[
        str | None, typer.Option(help="Release folder, NAME@ALIAS or NAME@VERSION; the champion by default.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.0, help="Frames judged per second; 0 for every frame.")] = 5.0,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes to start; 2 without MASKFER_BROKER_URL, with it none."),
    ] = None,
    segment_seconds: Annotated[
        float, typer.Option(min=1.0, max=600.0, help="Seconds of video per task.")
    ] = 20.0,
) -> None:
    """Score videos through a queue; finished parts of an interrupted run are taken up."""
    from maskfer.config import Settings
    from maskfer.errors import VideoError
    from services.labeling import client

    client.check_folder(out)
    with _progress() as progress:
        outcomes = client.score_videos(
            videos,
            out,
            settings=Settings.load(),
            model=model,
            sample_fps=fps or None,
            segment_seconds=segment_seconds,
            workers=workers,
            progress=progress,
        )
    for done in outcomes:
        if done.timeline is not None:
            usual = done.timeline.with_name(f"{done.video.stem}.parquet")
            taken = "" if done.timeline == usual else f" ({usual.name} is taken)"
            typer.echo(
                f"{done.video}: {done.sampled_frames} frames, {done.faces} faces, {done.tracks} tracks "
                f"-> {done.timeline}{taken}"
            )
    failed = [done.error for done in outcomes if done.error is not None]
    for error in failed[:-1]:
        typer.echo(f"maskfer: error: {error}", err=True)
    if failed:
        raise VideoError(failed[-1])


@app.command(
    epilog="Examples:\n\n`MASKFER_BROKER_URL=redis://broker:6379/0 maskfer worker --concurrency 4`",
    rich_help_panel="Answer",
)
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Segments scored at a time.")] = 2,
) -> None:
    """Score segments from the broker at MASKFER_BROKER_URL until SIGTERM."""
    from maskfer.config import Settings
    from services.labeling.worker import run_worker

    run_worker(Settings.load(), concurrency=concurrency)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; elsewhere a line on stdout for each tenth of the way."""
    if not sys.stderr.isatty():
        reported = 0

        def line(done: int, everything: int) -> None:
            nonlocal reported
            tenth = 10 * done // everything
            if tenth > reported:
                reported = tenth
                typer.echo(f"score: {done} of {everything} frames")

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("score"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("score", total=None)
        yield lambda done, everything: bar.update(task, completed=done, total=everything)
