"""Kubeflow component: makes an artifact of a faces table on a volume claim, as Kubeflow's importer cannot."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def read_claim(
    path: str,
    faces: Output[Dataset],
    dataset_sha256: str,  # noqa: ARG001 - part of the cache key
) -> None:
    """Copy the faces table at `path`, where the claim is mounted, to the pipeline's store."""
    import shutil
    from pathlib import Path

    from maskfer.data.table import FacesTable

    # What is no table is said here, not by the first step that trains.
    FacesTable.read(Path(path), columns=["split"])
    shutil.copyfile(path, faces.path)
