"""The graph: train_mask_classifier -> compute_heatmaps -> train_expression -> evaluate -> register.

One graph for here and for a cluster; a cluster adds its image, its GPUs and its addresses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact

from components.compute_heatmaps import compute_heatmaps
from components.evaluate import evaluate
from components.image import IMAGE
from components.register import register
from components.train_expression import train_expression
from components.train_mask_classifier import train_mask_classifier
from maskfer import atomic, provenance
from maskfer.config import Params
from maskfer.errors import InputError

NAME: Final = "maskfer-retrain"
STEPS: Final = ("train_mask_classifier", "compute_heatmaps", "train_expression", "evaluate", "register")
_DATA_MOUNT: Final = "/mnt/maskfer-data"
_PVC: Final = "pvc://"
_TRACKING: Final = "MASKFER_TRACKING_URI"

Graph = Any
"""A `kfp.dsl` pipeline (kfp carries no types)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a cluster's tasks need and a laptop's do not."""

    image: str = IMAGE
    gpus: int = 1
    """GPUs of each training step; 0 trains on processors."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource that is limited and taint that is tolerated."""
    gpu_node_label: tuple[str, str] = ("nvidia.com/gpu.present", "true")
    """Label of the nodes with GPUs, as NVIDIA's GPU feature discovery sets it."""
    memory: str = "8Gi"
    """Requested by each step; the limit is the same, so that no step is evicted for growing."""
    config_map: str = "maskfer-settings"
    """Config map of `k8s/base` with the registry's address."""
    data_claim: str | None = None
    """Volume claim that holds the faces table; None where it comes from an object store."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The graph's arguments; those with which it was compiled are its defaults."""

    faces_uri: str
    dataset_sha256: str
    """Content of the faces table, or a name that changes with it: part of every step's cache key."""
    code_sha256: str
    params: str
    policy: str

    def as_dict(self) -> dict[str, str]:
        """Return the arguments by name, as kfp takes them."""
        return dict(self.__dict__)


class Results(NamedTuple):
    """What the graph gives back."""

    evaluation: Artifact
    decision: Artifact


def arguments(*, faces_uri: str, dataset_sha256: str, params: Params, policy: str) -> Arguments:
    """Return the arguments for a run of the code that is installed here."""
    return Arguments(
        faces_uri=faces_uri,
        dataset_sha256=dataset_sha256,
        code_sha256=provenance.training_code_sha256(),
        params=params.model_dump_json(),
        policy=policy,
    )


def graph(defaults: Arguments, *, cluster: Cluster | None = None) -> Graph:
    """Build the pipeline; None builds it for the SDK's local runner, which knows no resources."""

    @dsl.pipeline(name=NAME, description="Train, judge and register a mask-aware expression model.")
    def retrain(
        faces_uri: str = defaults.faces_uri,
        dataset_sha256: str = defaults.dataset_sha256,
        code_sha256: str = defaults.code_sha256,
        params: str = defaults.params,
        policy: str = defaults.policy,
    ) -> Results:
        key = {"params": params, "dataset_sha256": dataset_sha256, "code_sha256": code_sha256}
        table = dsl.importer(artifact_uri=faces_uri, artifact_class=dsl.Dataset, reimport=False)
        faces = table.output
        masks = train_mask_classifier(faces=faces, **key)
        maps = compute_heatmaps(faces=faces, mask_classifier=masks.outputs["mask_classifier"], **key)
        model = train_expression(faces=faces, heatmaps=maps.outputs["heatmaps"], **key)
        release = model.outputs["release"]
        verdict = evaluate(release=release, faces=faces, **key)
        registered = register(
            release=release,
            evaluation=verdict.outputs["evaluation"],
            faces=faces,
            params=params,
            policy=policy,
        )
        # The champion may have changed since an equal call: what was decided then says nothing now.
        registered.set_caching_options(enable_caching=False)
        if cluster is not None:
            _place(training=[masks, maps, model], verdict=verdict, registering=registered, on=cluster)
        return Results(verdict.outputs["evaluation"], registered.outputs["decision"])

    return retrain


def compile_to(out: Path, *, defaults: Arguments, cluster: Cluster) -> None:
    """Write the graph as YAML that a Kubeflow cluster takes, whole or not at all."""
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"{out}: Kubeflow takes a compiled pipeline from a .yaml file; name it like that")
    with atomic.new_file(out) as work:
        compiler.Compiler().compile(graph(defaults, cluster=cluster), str(work))


def on_cluster(faces: str) -> tuple[str, str | None]:
    """Return the URI and the volume claim by which a cluster's tasks read `faces`.

    `s3://`, `gs://`, `minio://` go through the cluster's object store; `pvc://CLAIM/PATH` is mounted.
    Raises `InputError` for anything else: pods do not see this machine's files.
    """
    if faces.startswith(_PVC):
        claim, _, path = faces.removeprefix(_PVC).partition("/")
        if not claim or not path.endswith(".parquet"):
            raise InputError(f"{faces}: expected pvc://CLAIM/PATH/faces.parquet")
        return f"{_DATA_MOUNT}/{path}", claim
    if faces.startswith(("s3://", "gs://", "minio://")):
        if not faces.endswith(".parquet"):
            raise InputError(f"{faces}: expected the URI of a faces.parquet; `maskfer data build` makes one")
        return faces, None
    raise InputError(
        f"{faces}: the cluster's pods cannot read this machine's files; build the dataset here "
        "(`maskfer data build RAW --out DIR`), copy DIR/faces.parquet to the cluster's store, and give "
        "--data s3://BUCKET/PATH/faces.parquet or pvc://CLAIM/PATH/faces.parquet"
    )


def _place(*, training: list[Any], verdict: Any, registering: Any, on: Cluster) -> None:
    for task in (*training, verdict, registering):
        task.set_container_image(on.image)
        task.set_memory_request(on.memory).set_memory_limit(on.memory).set_cpu_request("2")
        if on.data_claim is not None:
            kubernetes.mount_pvc(task, pvc_name=on.data_claim, mount_path=_DATA_MOUNT)
    for task in training if on.gpus else []:
        task.set_accelerator_type(on.gpu_resource).set_accelerator_limit(on.gpus)
        label, value = on.gpu_node_label
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
        kubernetes.add_toleration(task, key=on.gpu_resource, operator="Exists", effect="NoSchedule")
    kubernetes.use_config_map_as_env(
        registering, config_map_name=on.config_map, config_map_key_to_env={_TRACKING: _TRACKING}
    )
