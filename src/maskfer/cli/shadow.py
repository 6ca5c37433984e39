"""`maskfer models challenge` and `maskfer models shadow`: a version tried beside the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskfer.cli.models import Json, Name, models, new_table, open_registry, print_json, print_table

if TYPE_CHECKING:
    from services.scoring.shadow_records import Agreement, Report

_PARTS = ("expression", "masked", "orientation")


@models.command(epilog="Examples:\n\n`maskfer models challenge v4`\n\n`maskfer models challenge --end`")
def challenge(
    version: Annotated[str | None, typer.Argument(help="v4, 4, or NAME@ before one of them.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Leave nobody challenger.")] = False,
    name: Name = None,
) -> None:
    """Make a version the challenger; a service with MASKFER_SHADOW_MODEL asks it too and compares."""
    from maskfer.errors import InputError

    if (version is None) is not end:
        raise InputError("challenge: give either a VERSION or --end")
    registry = open_registry()
    if version is None:
        registry.end_challenge(name)
        typer.echo("nobody is challenger now")
        return
    found = registry.resolve(version if "@" in version or name is None else f"{name}@{version}")
    registry.challenge(found)
    typer.echo(f"challenger is now v{found.version} of {found.name}; see `maskfer models shadow`")


@models.command(
    epilog="Examples:\n\n`maskfer models shadow`\n\n`maskfer models shadow --json`\n\n"
    "`maskfer models shadow --clear`",
)
def shadow(
    as_json: Json = False,
    clear: Annotated[bool, typer.Option("--clear", help="Forget what was recorded.")] = False,
) -> None:
    """Show how the challenger agreed with the served model on the service's requests."""
    from maskfer.config import Settings
    from services.scoring.shadow_records import ShadowRecords

    records = ShadowRecords(Settings.load().home)
    if clear:
        typer.echo(f"forgot {records.clear()} pairs of models")
        return
    reports = records.reports()
    if as_json:
        print_json([report.to_json() for report in reports])
    elif not reports:
        typer.echo(
            f"no challenger was compared yet (no record in {records.path}); serve with "
            "MASKFER_SHADOW_MODEL=NAME@challenger and name one with `maskfer models challenge VERSION`"
        )
    for report in () if as_json else reports:
        _show(report)


def _show(report: Report) -> None:
    pair, work = report.pair, report.tally.work
    table = new_table(
        f"{pair.challenger} beside {pair.champion}, "
        f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    )
    table.add_column("faces", no_wrap=True)
    for column in ("count", *(f"same {part}" for part in _PARTS), *(f"|Δ| {part}" for part in _PARTS)):
        table.add_column(column, justify="right")
    table.add_row("all", *_cells(report.tally.whole), style="bold")
    for name, agreement in report.tally.agreement.items():
        table.add_row(name, *_cells(agreement))
    print_table(table)
    if work.timed_faces:
        champion, challenger = (1000 * s / work.timed_faces for s in (work.champion_s, work.challenger_s))
        typer.echo(
            f"  ms a face: {challenger:.2f} beside {champion:.2f}, asked one after the other about the same "
            f"{work.timed_faces} faces"
        )
    typer.echo(f"  not compared: {work.dropped} faces while behind, {work.failed} on which it failed\n")


def _cells(agreement: Agreement) -> list[str]:
    values = agreement.to_json()
    shares = [values[part]["agreement"] for part in _PARTS]
    differences = [values[part]["difference"] for part in _PARTS]
    return [
        str(agreement.faces),
        *("-" if share is None else f"{share:.1%}" for share in shares),
        *("-" if difference is None else f"{difference:.4f}" for difference in differences),
    ]
