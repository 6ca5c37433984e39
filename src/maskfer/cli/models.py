"""`maskfer models`: what is registered, who is champion, and how to change that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskfer.cli import app
from maskfer.cli.console import plain

if TYPE_CHECKING:
    from rich.table import Table

    from maskfer.registry import Event, ModelVersion, Registry

models = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(
    models, name="models", help="Registered models: list, show, history, promote, rollback, shadow."
)

Name = Annotated[str | None, typer.Option("--name", help="Model; default MASKFER_MODEL_NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Version = Annotated[str, typer.Argument(help="champion, v3, 3, or NAME@ before one of them.")]


@models.command("list", epilog="Examples:\n\n`maskfer models list`\n\n`maskfer models list --json`")
def list_versions(name: Name = None, as_json: Json = False) -> None:
    """List every version, newest first."""
    registry = open_registry()
    name = name or registry.settings.model_name
    registry.require_model(name)
    versions = registry.versions(name)
    if as_json:
        print_json([version.to_json() for version in versions])
        return
    table = new_table(name)
    for column in ("version", "registered", "accuracy", "unmasked", "masked", "data", "decision"):
        numeric = column in {"accuracy", "unmasked", "masked"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    logged = registry.all_metrics(versions)
    for version in versions:
        figures = logged[version.version]
        keys = ("accuracy", "slices/unmasked/accuracy", "slices/masked/accuracy")
        table.add_row(
            _label(version),
            f"{version.created_at:%Y-%m-%d %H:%M}",
            *(f"{figures[key]:.3f}" if key in figures else "-" for key in keys),
            (version.tags.get("dataset_sha256") or "-")[:8],
            version.tags.get("decision", "-"),
            style="bold" if version.is_champion else None,
        )
    print_table(table)


@models.command(epilog="Examples:\n\n`maskfer models show champion`\n\n`maskfer models show v3 --json`")
def show(version: Version, as_json: Json = False) -> None:
    """Show one version: where it comes from, its figures, and what was decided about it."""
    registry = open_registry()
    found = registry.resolve(version)
    figures = registry.metrics(found)
    if as_json:
        print_json({**found.to_json(), "metrics": figures, "decision_numbers": found.decision})
        return
    from maskfer.promotion.report import decision_table

    table = new_table(f"{found}{' (champion)' if found.is_champion else ''}")
    table.show_header = False
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    main = (
        "accuracy",
        "macro_f1",
        "slices/unmasked/accuracy",
        "slices/masked/accuracy",
        "heatmap_iou",
        "ece",
    )
    rows = {
        "registered": f"{found.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "code (git)": found.tags.get("git_revision", "-"),
        "data (DVC)": found.tags.get("dvc_revision", "-"),
        "faces (sha256)": found.tags.get("dataset_sha256", "-"),
        "release (sha256)": found.release_sha256 or "-",
        **{key: f"{figures[key]:.3f}" for key in main if key in figures},
        "files": found.source,
        "decision": f"{found.tags.get('decision', '-')}: {found.tags.get('decision_reason', '-')}",
    }
    for what, value in rows.items():
        table.add_row(what, value)
    print_table(table)
    if found.decision and found.decision["comparisons"]:
        print_table(decision_table(found.decision))


@models.command(epilog="Examples:\n\n`maskfer models history`\n\n`maskfer models history --json`")
def history(name: Name = None, as_json: Json = False) -> None:
    """Show who was champion when, and why."""
    found = open_registry().history(name)
    if as_json:
        print_json(found.to_json())
        return
    if not found.events:
        typer.echo(f"{found.name}: no version was champion yet; see `maskfer models list`")
        return
    table = new_table(f"{found.name}: champions")
    for column in ("version", "from (UTC)", "until", "by", "how", "why"):
        table.add_column(column, overflow="fold")
    for reign in found.reigns:
        event = reign.event
        gone = "" if reign.version in found.existing else " (deleted)"
        table.add_row(
            f"v{reign.version}{gone}",
            f"{reign.since:%Y-%m-%d %H:%M:%S}",
            f"{reign.until:%Y-%m-%d %H:%M:%S}" if reign.until else "now",
            event.actor,
            "rolled back to" if event.kind == "rolled_back" else "forced" if event.forced else "promoted",
            event.reason,
            style="bold" if reign.until is None else None,
        )
    print_table(table)
    if found.discrepancy:
        typer.secho(f"attention: {found.discrepancy}", fg="yellow", err=True)


@models.command(
    epilog="Examples:\n\n`maskfer models promote v3 --reason 'the trial in hall 2 went well'`\n\n"
    "`maskfer models promote v3 --force --reason 'new classes'`",
)
def promote(
    version: Version,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    force: Annotated[bool, typer.Option("--force", help="Overrule the policy.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version the champion, if its recorded decision allows it or with `--force`."""
    registry = open_registry()
    event = registry.promote(registry.resolve(version), reason=_given(reason), forced=force)
    _tell(event, as_json=as_json)


@models.command(
    epilog="Examples:\n\n`maskfer models rollback`\n\n`maskfer models rollback --reason 'misses side faces'`"
)
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "rollback, no reason given",
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Make the latest earlier champion that still exists the champion again."""
    _tell(open_registry().rollback(reason=_given(reason), name=name), as_json=as_json)


def open_registry() -> Registry:
    """Return the registry that the settings lead to."""
    from maskfer.config import Settings
    from maskfer.registry import Registry

    return Registry(Settings.load())


def _given(reason: str) -> str:
    from maskfer.errors import InputError

    if not reason.strip():
        raise InputError("--reason is empty; say why, the history keeps it")
    return reason.strip()


def _tell(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_json(event.to_json())
        return
    before = "nobody" if event.previous is None else f"v{event.previous}"
    typer.echo(f"champion is now v{event.version} (before: {before}); {event.reason}")


def _label(version: ModelVersion) -> str:
    return f"v{version.version}{' champion' if version.is_champion else ''}"


def new_table(title: str) -> Table:
    """Return an empty table as all of these commands print it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def print_table(table: Table) -> None:
    """Print a table to the terminal's width, what people wrote into it as they wrote it."""
    plain(soft_wrap=False).print(table)


def print_json(value: Any) -> None:
    """Print what `--json` asks for."""
    typer.echo(json.dumps(value, indent=2))
