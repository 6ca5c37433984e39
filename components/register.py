"""Kubeflow component: `maskfer.stages.register`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def register(
    release: Input[Model],
    evaluation: Input[Artifact],
    faces: Input[Dataset],
    decision: Output[Artifact],
    params: str,
    policy: str,
    model_name: str,
) -> None:
    """Register the release; promote it if the policy allows. Never cached: the champion may have changed."""
    from pathlib import Path

    from maskfer.config import Params, Settings
    from maskfer.promotion import PromotionPolicy
    from maskfer.stages import register as stage

    stage.run(
        Path(release.path),
        Path(evaluation.path),
        Path(faces.path),
        Path(decision.path),
        params=Params.model_validate_json(params),
        settings=Settings.load().model_copy(update={"model_name": model_name}),
        policy=PromotionPolicy.model_validate_json(policy),
    )
