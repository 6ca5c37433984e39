"""Kubeflow component: `maskfer.stages.train_expression`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def train_expression(
    faces: Input[Dataset],
    heatmaps: Input[Artifact],
    release: Output[Model],
    params: str,
    pretrained_sha256: str,  # noqa: ARG001 - part of the cache key
    dataset_sha256: str,
    code_sha256: str,
    landmarks: Input[Model] | None = None,
) -> None:
    """Train the expression network and write it as a release with the networks before it."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params, Settings
    from maskfer.stages import train_expression as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(faces.path),
        Path(heatmaps.path),
        Path(release.path),
        params=Params.model_validate_json(params),
        landmarks=None if landmarks is None else Path(landmarks.path),
        checkpoints=Settings.load().home / "checkpoints",
        lineage=provenance.lineage(Path(faces.path)),
    )
