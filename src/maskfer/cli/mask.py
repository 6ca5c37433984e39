"""`maskfer mask`: AWFM on a picture or a folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli import app


@app.command(
    epilog="Examples:\n\n`maskfer mask portrait.jpg --out masked`\n\n"
    "`maskfer mask photos --out masked --type surgical --color '#a9d4ea' --seed 3`\n\n"
    "`maskfer mask photos --out masked --type cloth --pattern dots --regions`",
    rich_help_panel="Data",
)
def mask(  # noqa: PLR0913 (each is an option that a user types)
    source: Annotated[
        Path, typer.Argument(metavar="IMAGE_OR_DIR", help="A picture, or a folder of pictures.")
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the masked pictures, new, empty or of an earlier run; keeps names, folders and "
            "formats."
        ),
    ],
    mask_type: Annotated[
        str | None,
        typer.Option("--type", help="surgical, kn95, n95, cloth or duckbill; by chance if left out."),
    ] = None,
    color: Annotated[str | None, typer.Option(help="#rrggbb; by chance if left out.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="stripes, checks, dots, floral, camouflage, marble or motif.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    regions: Annotated[
        bool,
        typer.Option("--regions", help="Write what the masks cover as NAME.region.png beside each picture."),
    ] = False,
    keep_color: Annotated[
        bool, typer.Option("--keep-color", help="Let masks on grey photographs keep their colour.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if left out.")] = None,
    params: Annotated[
        Path | None, typer.Option(help="YAML file like params.yaml; its masking section counts.")
    ] = None,
) -> None:
    """Put face masks on all faces; what cannot be masked is listed in OUT/rejects.csv."""
    from maskfer.config import Params
    from maskfer.errors import InputError
    from maskfer.masking.folder import REJECTS, mask_folder
    from maskfer.masking.picture import StyleChoice

    try:
        choice = StyleChoice.parse(mask_type, color, pattern, keeps_color=keep_color)
    except ValueError as error:
        raise InputError(str(error)) from error
    start = time.perf_counter()
    with _progress() as progress:
        report = mask_folder(
            source,
            out,
            params=Params.load(params).masking,
            choice=choice,
            seed=seed,
            regions=regions,
            workers=workers,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    typer.echo(
        f"{report.pictures} pictures: {report.written} masked, {report.rejected} rejected "
        f"({report.unreadable} unreadable); {report.faces_masked} faces masked, "
        f"{report.faces_rejected} could not be; {report.skipped_files} other files skipped; "
        f"{seconds:.1f} s -> {out}"
    )
    if report.written == 0:
        raise InputError(
            f"{source}: no face could be masked in {report.pictures} pictures; see {out / REJECTS}"
        )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where someone looks at it; else a line on stdout now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("masking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("masking", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def log(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            typer.echo(f"masked {done} of {total} pictures")

    yield log
