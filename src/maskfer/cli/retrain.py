"""`maskfer retrain`: from photographs or a faces table to a judged and registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maskfer.cli import app

if TYPE_CHECKING:
    from maskfer.config import Params, Settings
    from maskfer.promotion import PromotionPolicy
    from pipelines.watch import Step


_TEAM_POLICY: Final = Path("mlflow/promotion-policy.yaml")


def team_policy() -> Path | None:
    """Return the policy in the checkout that the command runs in, if it runs in one."""
    return _TEAM_POLICY if _TEAM_POLICY.is_file() else None


@app.command(
    epilog="Examples:\n\n`maskfer retrain --data photos`\n\n"
    "`maskfer retrain --data dataset --params params.yaml --work runs/monday`\n\n"
    "`maskfer retrain --data s3://faces/2026-01/faces.parquet --submit http://localhost:8888`",
    rich_help_panel="Train",
)
def retrain(
    data: Annotated[
        str,
        typer.Option(
            help="Labelled photographs, or a folder with faces.parquet; for a cluster the table's URI "
            "(s3://, gs://, minio://, pvc://CLAIM/PATH)."
        ),
    ],
    params: Annotated[
        Path | None, typer.Option(help="YAML like params.yaml; the defaults where none is given.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Promotion policy; mlflow/promotion-policy.yaml if it is here, else the defaults."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results, replaced when the run ends well; else under MASKFER_HOME."
        ),
    ] = None,
    submit: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Run on the Kubeflow cluster behind this Pipelines API."),
    ] = None,
    compile_: Annotated[
        Path | None, typer.Option("--compile", metavar="FILE", help="Only write the graph as YAML.")
    ] = None,
    experiment: Annotated[str, typer.Option(help="Kubeflow experiment, with --submit.")] = "maskfer",
    namespace: Annotated[
        str | None, typer.Option(help="Namespace in a multi-user Kubeflow, with --submit.")
    ] = None,
) -> None:
    """Train, judge and register a model; it becomes champion if the policy allows it."""
    from maskfer.config import Params, Settings
    from maskfer.learning import start
    from maskfer.promotion import PromotionPolicy

    made_with, settings = Params.load(params), Settings.load()
    start.require_releasable(made_with.expression)
    promotes_by = PromotionPolicy.load(policy or team_policy())
    if submit is None and compile_ is None:
        _retrain_here(Path(data), params=made_with, policy=promotes_by, settings=settings, work=work)
        return

    from pipelines.retrain import cluster_of, compile_to, recipe

    cluster, table = cluster_of(data, settings=settings)
    made_by = recipe(made_with, policy=promotes_by, model_name=settings.model_name)
    if compile_ is not None:
        compile_to(compile_, defaults=made_by, cluster=cluster)
        typer.echo(f"{compile_}: written; start it with faces_uri={table.faces_uri}")
    if submit is not None:
        from pipelines.submit import submit as create_run

        address = create_run(
            submit, recipe=made_by, table=table, cluster=cluster, experiment=experiment, namespace=namespace
        )
        typer.echo(f"submitted: {address}")


def _retrain_here(
    data: Path, *, params: Params, policy: PromotionPolicy, settings: Settings, work: Path | None
) -> None:
    from maskfer.data.table import photographs
    from maskfer.learning import start
    from pipelines.dataset import faces_table
    from pipelines.run_local import check_results, run

    # Before a dataset is built, or half an hour trained, for nothing.
    check_results(work, data=data)
    if start.weights(params.expression) is not None:
        from maskfer.learning import architecture

        architecture.expression_classifier(params)  # refuses weights of another network
    faces, prepared = faces_table(data, params=params, settings=settings, say=typer.echo)
    done = run(faces, params=params, policy=policy, settings=settings, out=work)
    _report((*prepared, *done.steps), folder=done.folder, name=settings.model_name)
    advice = start.advice(params.expression, photographs=photographs(faces, params.classes))
    if advice is not None:
        typer.echo(f"try next   {advice}")


def _report(steps: tuple[Step, ...], *, folder: Path, name: str) -> None:
    from rich.table import Table

    from maskfer.cli.console import plain

    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    decision = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
    stages = Table("stage", "seconds", title="Retrained", title_justify="left")
    for step in steps:
        stages.add_row(step.name, "cached" if step.seconds is None else f"{step.seconds:.1f}")
    figures = Table("faces", "n", "accuracy", "macro-F1", title="On the test people", title_justify="left")
    for kind in ("unmasked", "masked"):
        one = metrics["slices"].get(kind, {})
        figures.add_row(kind, str(one.get("n", 0)), _share(one.get("accuracy")), _share(one.get("macro_f1")))
    console = plain()
    console.print(stages, figures, sep="\n")
    console.print(f"version    {name} v{decision['version']}: {_verdict(decision)}")
    console.print(f"because    {decision['reason']}")
    console.print(f"look next  {folder}: decision.md, release/MODEL_CARD.md, plots/; maskfer models history")


def _verdict(decision: dict[str, Any]) -> str:
    if decision["promote"]:
        return "promoted to champion"
    return "champion already" if decision["champion"] == decision["version"] else "not promoted"


def _share(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"
