"""Kubeflow component: `maskfer.stages.evaluate`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def evaluate(
    release: Input[Model],
    faces: Input[Dataset],
    evaluation: Output[Artifact],
    params: str,
    dataset_sha256: str,
    code_sha256: str,
) -> None:
    """Judge the release on the test people."""
    from pathlib import Path

    from maskfer import provenance
    from maskfer.config import Params
    from maskfer.stages import evaluate as stage

    provenance.require_graph_inputs(Path(faces.path), dataset_sha256=dataset_sha256, code_sha256=code_sha256)
    stage.run(
        Path(release.path),
        Path(faces.path),
        Path(evaluation.path),
        params=Params.model_validate_json(params),
    )
