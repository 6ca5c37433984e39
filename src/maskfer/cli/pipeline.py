"""`maskfer pipeline`: the Kubeflow graph as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli import app
from maskfer.cli.retrain import team_policy

pipeline = typer.Typer(no_args_is_help=True, help="The Kubeflow graph as a file.")
app.add_typer(pipeline, name="pipeline", rich_help_panel="Train")


@pipeline.command(
    "compile",
    epilog="Examples:\n\n`maskfer pipeline compile --out pipeline.yaml`\n\n"
    "`maskfer pipeline compile --out pipeline.yaml --image registry.example/maskfer-python:0.1.0 --gpus 0`",
)
def compile_(
    out: Annotated[Path, typer.Option(help="YAML file to write.")],
    params: Annotated[
        Path | None, typer.Option(help="YAML like params.yaml; the defaults where none is given.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Promotion policy; mlflow/promotion-policy.yaml if it is here, else the defaults."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Image of the steps; else MASKFER_PIPELINE_IMAGE.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of each training step; else MASKFER_PIPELINE_GPUS.")
    ] = None,
    data_claim: Annotated[
        str | None, typer.Option(help="Volume claim with the faces table, mounted at /mnt/maskfer-data.")
    ] = None,
) -> None:
    """Write the graph as YAML that a Kubeflow cluster takes."""
    from maskfer.config import Params, Settings
    from maskfer.promotion import PromotionPolicy
    from pipelines.retrain import Cluster, compile_to, recipe

    settings = Settings.load()
    cluster = Cluster(
        image=settings.pipeline_image if image is None else image,
        gpus=settings.pipeline_gpus if gpus is None else gpus,
        data_claim=data_claim,
    )
    made_by = recipe(
        Params.load(params),
        policy=PromotionPolicy.load(policy or team_policy()),
        model_name=settings.model_name,
    )
    compile_to(out, defaults=made_by, cluster=cluster)
    typer.echo(f"{out}: written; start it with faces_uri and dataset_sha256")
