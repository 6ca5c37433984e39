"""Kubeflow component: `maskfer.stages.train_landmarks`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def train_landmarks(
    faces: Input[Dataset],
    heatmaps: Input[Artifact],
    landmarks: Output[Model],
    params: str,
    dataset_sha256: str,
    code_sha256: str,
    inpainter: Input[Model] | None = None,
) -> None:
    """Train the landmark network, on inpainted faces where there is an inpainter."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params, Settings
    from maskfer.stages import train_landmarks as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(faces.path),
        Path(heatmaps.path),
        Path(landmarks.path),
        params=Params.model_validate_json(params),
        inpainter=None if inpainter is None else Path(inpainter.path),
        checkpoints=Settings.load().home / "checkpoints",
    )
