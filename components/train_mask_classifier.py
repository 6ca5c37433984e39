"""Kubeflow component: `maskfer.stages.train_mask_classifier`."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def train_mask_classifier(
    faces: Input[Dataset],
    mask_classifier: Output[Model],
    params: str,
    dataset_sha256: str,
    code_sha256: str,
) -> None:
    """Train the masked/unmasked classifier."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params, Settings
    from maskfer.stages import train_mask_classifier as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(faces.path),
        Path(mask_classifier.path),
        params=Params.model_validate_json(params),
        checkpoints=Settings.load().home / "checkpoints",
    )
