"""Kubeflow component: `maskfer.stages.compute_heatmaps`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def compute_heatmaps(
    faces: Input[Dataset],
    mask_classifier: Input[Model],
    heatmaps: Output[Artifact],
    params: str,
    dataset_sha256: str,
    code_sha256: str,
) -> None:
    """Compute the occlusion heatmap of every face."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params, Settings
    from maskfer.stages import compute_heatmaps as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(faces.path),
        Path(mask_classifier.path),
        Path(heatmaps.path),
        params=Params.model_validate_json(params),
        checkpoints=Settings.load().home / "checkpoints",
    )
