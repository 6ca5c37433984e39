"""Kubeflow component: `maskfer.stages.train_inpainter`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def train_inpainter(
    faces: Input[Dataset],
    heatmaps: Input[Artifact],
    inpainter: Output[Model],
    params: str,
    dataset_sha256: str,
    code_sha256: str,
) -> None:
    """Train the generator that paints over masks, against its two discriminators."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params, Settings
    from maskfer.stages import train_inpainter as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(faces.path),
        Path(heatmaps.path),
        Path(inpainter.path),
        params=Params.model_validate_json(params),
        checkpoints=Settings.load().home / "checkpoints",
    )
