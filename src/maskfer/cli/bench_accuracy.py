"""`maskfer bench accuracy`: the table of all systems, made by one command."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskfer.cli.bench import bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from maskfer.errors import MaskferError
    from maskfer.learning.systems import System
    from maskfer.stages.accuracy import Trial


@bench.command(
    epilog="Examples:\n\n`maskfer bench accuracy --data dataset`\n\n"
    "`maskfer bench accuracy --data dataset --systems two_branch,ran --seeds 1 --results results.md`\n\n"
    "`maskfer bench accuracy --data dataset --systems variants --params short.yaml --seeds 1`\n\n"
    "`maskfer bench accuracy --data dataset --systems narrow --params short.yaml`\n\n"
    "`maskfer bench accuracy --data dataset --systems all --finished`",
)
def accuracy(  # noqa: PLR0913 (each is an option that a user types)
    *,
    data: Annotated[Path | None, typer.Option(help="Folder with faces.parquet.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for releases and figures; a later run goes on in it. Else under MASKFER_HOME."
        ),
    ] = None,
    systems: Annotated[
        str,
        typer.Option(
            help="Names, separated by commas, or: methods, variants, narrow, all; --list shows them."
        ),
    ] = "methods",
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "1,2,3",
    params: Annotated[Path | None, typer.Option(help="YAML like params.yaml; else the defaults.")] = None,
    real_masks: Annotated[
        Path | None, typer.Option(help="Folder with faces.parquet of photographs of real masks.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Page whose accuracy section is written, e.g. docs/results.md.")
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Train nothing: the table of what is there.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only show the systems.")] = False,
) -> None:
    """Train and judge systems with several seeds under one protocol; goes on where it stopped."""
    from maskfer.config import Params, Settings
    from maskfer.data.table import FILE_NAME
    from maskfer.errors import InputError
    from maskfer.evaluation.accuracy_table import checked_page
    from maskfer.learning import systems as known
    from maskfer.stages import accuracy as stage

    if list_:
        width = max(map(len, known.SYSTEMS)) + 2
        for system in known.SYSTEMS.values():
            typer.echo(f"{system.name:<{width}}{system.title}")
        return
    if data is None:
        raise InputError(
            "--data is missing; give the folder with faces.parquet, as `maskfer data build` makes it"
        )
    chosen, wanted = _systems(systems), _seeds(seeds)
    settings, made_with = Settings.load(), Params.load(params)
    folder, faces = work or settings.home / "accuracy", data / FILE_NAME
    if results is not None:
        checked_page(results)  # now: the first trial may take hours
    shown = _Shown(
        partial(stage.write_table, params=made_with, systems=chosen, page=results),
        partial(stage.log, settings=settings),
        folder / "table.md",
        total=len(chosen) * len(wanted),
    )
    trials = partial(
        stage.run,
        faces,
        folder,
        params=made_with,
        systems=chosen,
        seeds=wanted,
        real_masks=None if real_masks is None else real_masks / FILE_NAME,
    )
    # First what is there: a table that has it all is never replaced by one with a part of it.
    for trial in trials(train=False, on_failure=shown.failed if finished else shown.tried_again):
        shown.add(trial)
    if shown.done:
        shown.write()
    for trial in () if finished else trials(train=True, on_failure=shown.failed):
        if shown.add(trial):
            shown.write()  # a run that is stopped leaves the table of what is done
    _require_all_well(shown.failures, shown.unlogged, done=len(shown.done), total=shown.total)
    if not shown.done:
        raise InputError(
            f"--finished: {folder} has none of these systems, trained with these params by this code; leave "
            "--finished out"
        )
    typer.echo(f"look next  {shown.page}, table.png; {folder}/seed-*/*/judged-*/evaluation/plots")


@dataclass
class _Shown:
    """What was done and said so far."""

    write_table: Callable[[list[Trial], Path], None]
    log: Callable[[Trial], None]
    page: Path
    total: int
    done: dict[tuple[str, int], Trial] = field(default_factory=dict)
    failures: list[MaskferError] = field(default_factory=list)
    unlogged: list[MaskferError] = field(default_factory=list)

    def add(self, trial: Trial) -> bool:
        """Show and log a trial; False where it was before."""
        from maskfer.errors import RegistryError

        key = trial.system.name, trial.seed
        if key in self.done:
            return False
        self.done[key] = trial
        typer.echo(_line(trial, done=len(self.done) + len(self.failures), total=self.total))
        try:
            self.log(trial)
        except RegistryError as error:
            self.unlogged.append(error)
            typer.echo(f"{trial.system.name}, seed {trial.seed} could not be logged: {error}", err=True)
        return True

    def write(self) -> None:
        """Write the table of all that is done."""
        self.write_table(list(self.done.values()), self.page)

    def failed(self, system: System, seed: int, error: MaskferError) -> None:
        """Keep and show that a trial failed."""
        self.failures.append(error)
        typer.echo(f"{system.name}, seed {seed} failed and is left out: {error}", err=True)

    @staticmethod
    def tried_again(*_: object) -> None:
        """Say nothing: what fails before anything is trained fails again after."""


def _require_all_well(
    failures: list[MaskferError], unlogged: list[MaskferError], *, done: int, total: int
) -> None:
    from maskfer.errors import StageFailed

    if failures:
        raise StageFailed(
            f"{len(failures)} of {total} trials failed, as said above; the table has the other {done}, and "
            "the same command tries the failed ones again"
        )
    if unlogged:
        raise StageFailed(
            f"{len(unlogged)} of {done} trials could not be logged to MLflow, as said above; all are in the "
            "table, and the same command logs them and trains nothing"
        )


def _systems(names: str) -> list[System]:
    from maskfer.errors import InputError
    from maskfer.learning import systems as known

    if names in known.GROUPS:
        return list(known.GROUPS[names])
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in known.SYSTEMS]:
        raise InputError(
            f"--systems: no system {', '.join(map(repr, unknown))}; expected some of "
            f"{', '.join(known.SYSTEMS)}, or one of {', '.join(known.GROUPS)}"
        )
    return [known.SYSTEMS[name] for name in dict.fromkeys(asked)]


def _seeds(text: str) -> list[int]:
    from maskfer.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--seeds {text!r}: expected whole numbers separated by commas, e.g. 1,2,3")
    return list(dict.fromkeys(int(part) for part in parts))


def _line(trial: Trial, *, done: int, total: int) -> str:
    figures = ", ".join(
        f"{kind} {_shown(trial.result[kind]['accuracy'])} / {_shown(trial.result[kind]['macro_f1'])}"
        for kind in ("masked", "unmasked")
    )
    before = "" if trial.trained else " (done before)"
    return f"{done}/{total}  {trial.system.name}, seed {trial.seed}: accuracy / macro-F1 {figures}{before}"


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"
