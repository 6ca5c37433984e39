"""The graph: train_mask_classifier -> compute_heatmaps -> train_expression -> evaluate -> register.

Where the expression network needs them, train_inpainter and train_landmarks come before train_expression: the
parameters decide which steps a graph has when it is built. One graph for here and for a cluster; a cluster
adds its image, its GPUs and its addresses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact

from components.compute_heatmaps import compute_heatmaps
from components.evaluate import evaluate
from components.image import IMAGE
from components.read_claim import read_claim
from components.register import register
from components.train_expression import train_expression
from components.train_inpainter import train_inpainter
from components.train_landmarks import train_landmarks
from components.train_mask_classifier import train_mask_classifier
from maskfer import atomic, provenance
from maskfer.config import Params, Settings
from maskfer.errors import InputError
from maskfer.learning import start
from maskfer.promotion import PromotionPolicy

NAME: Final = "maskfer-retrain"
STEPS: Final = (
    "train_mask_classifier",
    "compute_heatmaps",
    "train_inpainter",
    "train_landmarks",
    "train_expression",
    "evaluate",
    "register",
)
"""Every step there is, in order; `steps_of` says which of them a graph has."""
_NOT_READ_BY_LANDMARK_STEP: Final = {"masking", "expression", "evaluation"}
_NOT_READ_BY_INPAINTER_STEP: Final = _NOT_READ_BY_LANDMARK_STEP | {"landmarks"}
_NOT_READ_BY_MASK_STEPS: Final = _NOT_READ_BY_INPAINTER_STEP | {"inpainting"}
_DATA_MOUNT: Final = "/mnt/maskfer-data"
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - where Linux has it, in the container
_PVC: Final = "pvc://"
_STORES: Final = ("s3://", "gs://", "minio://")
_TRACKING: Final = "MASKFER_TRACKING_URI"

Graph = Any
"""A `kfp.dsl` pipeline (kfp carries no types)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a cluster's tasks need and a laptop's do not."""

    image: str = IMAGE
    gpus: int = 1
    """GPUs of each training step, all on one node, a process for each; 0 trains on processors."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource that is limited and taint that is tolerated."""
    gpu_node_label: tuple[str, str] = ("nvidia.com/gpu.present", "true")
    """Label of the nodes with GPUs, as NVIDIA's GPU feature discovery sets it."""
    memory_gib: int = 8
    """Requested by each step, by a training step for each GPU; the limit is the same, so that no step is
    evicted for growing."""
    config_map: str = "maskfer-settings"
    """Config map of `k8s/base` with the registry's address."""
    data_claim: str | None = None
    """Volume claim that holds the faces table; None where it comes from an object store."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a model is made and judged by: the arguments that a compiled graph has as its defaults."""

    params: str
    mask_params: str
    """The same without the sections that the mask steps do not read: changing those leaves them cached."""
    inpainter_params: str
    landmark_params: str
    """Likewise, for the two steps of approach 1."""
    policy: str
    model_name: str
    """Registered model that the candidate becomes a version of: pods do not see the submitter's settings."""
    pretrained_sha256: str
    """Content of the weights that the expression starts from, of which the parameters hold the path at most;
    `none` where no such file is on this machine (a cluster's steps read their own)."""
    code_sha256: str
    """Content of the library, which Kubeflow's own cache key does not see; every step but `register` compares
    it with its own."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The faces table to train on."""

    faces_uri: str
    dataset_sha256: str
    """Its content, or a name that changes with it: part of every step's cache key."""


class Results(NamedTuple):
    """What the graph gives back."""

    evaluation: Artifact
    decision: Artifact


def recipe(params: Params, *, policy: PromotionPolicy, model_name: str) -> Recipe:
    """Return the recipe of these parameters with the code that is installed here."""
    return Recipe(
        params=params.model_dump_json(),
        mask_params=params.model_dump_json(exclude=_NOT_READ_BY_MASK_STEPS),
        inpainter_params=params.model_dump_json(exclude=_NOT_READ_BY_INPAINTER_STEP),
        landmark_params=params.model_dump_json(exclude=_NOT_READ_BY_LANDMARK_STEP),
        policy=policy.model_dump_json(),
        model_name=model_name,
        pretrained_sha256=start.weights_sha256(params.expression) or "none",
        code_sha256=provenance.graph_code_sha256(),
    )


def steps_of(params: Params) -> tuple[str, ...]:
    """Return the names of the graph's steps with these parameters, in order."""
    left_out = set()
    if not params.expression.reads_landmarks:
        left_out.add("train_landmarks")
    if not params.expression.inpaints:
        left_out.add("train_inpainter")
    return tuple(step for step in STEPS if step not in left_out)


def graph(defaults: Recipe, *, cluster: Cluster | None = None) -> Graph:
    """Build the pipeline; None builds it for the SDK's local runner, which knows no resources.

    Its steps are those that the recipe's `expression.model` needs: another model needs another graph.
    """
    steps = steps_of(Params.model_validate_json(defaults.params))

    @dsl.pipeline(name=NAME, description="Train, judge and register a mask-aware expression model.")
    def retrain(  # noqa: PLR0913, PLR0917 - a graph's arguments are those of its function
        faces_uri: str,
        dataset_sha256: str,
        params: str = defaults.params,
        mask_params: str = defaults.mask_params,
        inpainter_params: str = defaults.inpainter_params,
        landmark_params: str = defaults.landmark_params,
        policy: str = defaults.policy,
        model_name: str = defaults.model_name,
        pretrained_sha256: str = defaults.pretrained_sha256,
        code_sha256: str = defaults.code_sha256,
    ) -> Results:
        key = {"dataset_sha256": dataset_sha256, "code_sha256": code_sha256}
        if cluster is not None and cluster.data_claim is not None:
            # Kubeflow's importer takes addresses of object stores only, no path.
            table = read_claim(path=faces_uri, dataset_sha256=dataset_sha256)
            _mount(table, cluster)
        else:
            table = dsl.importer(artifact_uri=faces_uri, artifact_class=dsl.Dataset, reimport=False)
        faces = table.output
        masks = train_mask_classifier(faces=faces, params=mask_params, **key)
        maps = compute_heatmaps(
            faces=faces, mask_classifier=masks.outputs["mask_classifier"], params=mask_params, **key
        )
        training, seen = [masks, maps], {"faces": faces, "heatmaps": maps.outputs["heatmaps"]}
        inpainted, landmarked = {}, {}
        if "train_inpainter" in steps:
            training.append(train_inpainter(**seen, params=inpainter_params, **key))
            inpainted = {"inpainter": training[-1].outputs["inpainter"]}
        if "train_landmarks" in steps:
            training.append(train_landmarks(**seen, **inpainted, params=landmark_params, **key))
            landmarked = {"landmarks": training[-1].outputs["landmarks"]}
        model = train_expression(
            **seen, **landmarked, params=params, pretrained_sha256=pretrained_sha256, **key
        )
        release = model.outputs["release"]
        verdict = evaluate(release=release, faces=faces, params=params, **key)
        registered = register(
            release=release,
            evaluation=verdict.outputs["evaluation"],
            faces=faces,
            params=params,
            policy=policy,
            model_name=model_name,
        )
        # The champion may have changed since an equal call: what was decided then says nothing now.
        registered.set_caching_options(enable_caching=False)
        if cluster is not None:
            _place(training=[*training, model], verdict=verdict, registering=registered, on=cluster)
        return Results(verdict.outputs["evaluation"], registered.outputs["decision"])

    return retrain


def compile_to(out: Path, *, defaults: Recipe, cluster: Cluster) -> None:
    """Write the graph as YAML that a Kubeflow cluster takes, whole or not at all."""
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"{out}: Kubeflow takes a compiled pipeline from a .yaml file; name it like that")
    with atomic.new_file(out) as work:
        compiler.Compiler().compile(graph(defaults, cluster=cluster), str(work))


def cluster_of(data: str, *, settings: Settings) -> tuple[Cluster, Table]:
    """Return the cluster that `settings` describe and how its tasks read the faces table at `data`.

    `s3://`, `gs://`, `minio://` go through the cluster's object store; `pvc://CLAIM/PATH` is mounted by a
    first step, which hands the table on. Raises `InputError` for anything else: pods do not see this
    machine's files.
    """
    uri, claim = data, None
    if data.startswith(_PVC):
        claim, _, path = data.removeprefix(_PVC).partition("/")
        uri = f"{_DATA_MOUNT}/{path}"
    elif not data.startswith(_STORES):
        raise InputError(
            f"{data}: a cluster's pods cannot read this machine's files; build the dataset here "
            "(`maskfer data build RAW --out DIR`), copy DIR/faces.parquet to the cluster's store, and give "
            "--data s3://BUCKET/PATH/faces.parquet or pvc://CLAIM/PATH/faces.parquet"
        )
    if claim == "" or not uri.endswith(".parquet"):
        raise InputError(
            f"{data}: expected the address of a faces.parquet, e.g. s3://BUCKET/PATH/faces.parquet"
        )
    cluster = Cluster(image=settings.pipeline_image, gpus=settings.pipeline_gpus, data_claim=claim)
    # The content is not at hand here: a new table needs a new address, or Kubeflow answers from its cache.
    return cluster, Table(faces_uri=uri, dataset_sha256=uri)


def _place(*, training: list[Any], verdict: Any, registering: Any, on: Cluster) -> None:
    for task in (*training, verdict, registering):
        task.set_container_image(on.image)
        _give(task, processes=max(1, on.gpus) if task in training else 1, memory_gib=on.memory_gib)
    for task in training if on.gpus else []:
        task.set_accelerator_type(on.gpu_resource).set_accelerator_limit(on.gpus)
        label, value = on.gpu_node_label
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
        kubernetes.add_toleration(task, key=on.gpu_resource, operator="Exists", effect="NoSchedule")
        if on.gpus > 1:
            # The processes talk through shared memory, of which a container has 64 MiB by default.
            kubernetes.empty_dir_mount(task, volume_name="shm", mount_path=_SHARED_MEMORY, medium="Memory")
    kubernetes.use_config_map_as_env(
        registering, config_map_name=on.config_map, config_map_key_to_env={_TRACKING: _TRACKING}
    )


def _mount(reading: Any, on: Cluster) -> None:
    reading.set_container_image(on.image)
    _give(reading, processes=1, memory_gib=on.memory_gib)
    kubernetes.mount_pvc(reading, pvc_name=on.data_claim, mount_path=_DATA_MOUNT)


def _give(task: Any, *, processes: int, memory_gib: int) -> None:
    memory = f"{processes * memory_gib}Gi"
    task.set_memory_request(memory).set_memory_limit(memory).set_cpu_request(str(2 * processes))
