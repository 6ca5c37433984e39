"""`maskfer data ingest | align | wear-masks`: the dataset's stages one by one, as dvc.yaml runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli.data import data

_ParamsFile = Annotated[
    Path | None, typer.Option(help="YAML like params.yaml; the defaults where none is given.")
]


@data.command(epilog="Examples:\n\n`maskfer data ingest photos --out records`", rich_help_panel="Stages")
def ingest(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Labelled photographs.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for records.parquet and rejects.csv.")],
    params: _ParamsFile = None,
) -> None:
    """Read labels and people, and split by person."""
    from maskfer.config import Params
    from maskfer.stages import ingest as stage

    report = stage.run(raw, out, params=Params.load(params))
    typer.echo(f"{out}: {report.images} images = {report.records} records + {report.rejected} rejected")


@data.command(
    epilog="Examples:\n\n`maskfer data align records --raw photos --out aligned`", rich_help_panel="Stages"
)
def align(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="What `maskfer data ingest` wrote.")],
    *,
    raw: Annotated[Path, typer.Option(help="The photographs that the records name.")],
    out: Annotated[Path, typer.Option(help="Folder for faces.parquet and rejects.csv.")],
    params: _ParamsFile = None,
) -> None:
    """Find the face, its landmarks and orientation, and cut the crop."""
    from maskfer.config import Params
    from maskfer.stages import align as stage

    report = stage.run(records, out, raw=raw, params=Params.load(params))
    typer.echo(f"{out}: {report.images} images = {report.faces} faces + {report.rejected} rejected")


@data.command(
    "wear-masks",
    epilog="Examples:\n\n`maskfer data wear-masks aligned --out faces`",
    rich_help_panel="Stages",
)
def wear_masks(
    aligned: Annotated[Path, typer.Argument(metavar="ALIGNED", help="What `maskfer data align` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for faces.parquet and rejects.csv.")],
    params: _ParamsFile = None,
) -> None:
    """Give every face a masked twin."""
    from maskfer.config import Params
    from maskfer.stages import wear_masks as stage

    report = stage.run(aligned, out, params=Params.load(params))
    typer.echo(f"{out}: {report.twins} masked twins, {report.rejected} faces rejected")
