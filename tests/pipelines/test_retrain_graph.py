"""The compiled graph: what a Kubeflow cluster gets to read. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from maskfer.config import Params, Settings
from maskfer.errors import InputError
from maskfer.promotion import PromotionPolicy
from pipelines.retrain import STEPS, Cluster, Recipe, cluster_of, compile_to, recipe, steps_of

TRAINING = (
    "exec-train-mask-classifier",
    "exec-compute-heatmaps",
    "exec-train-inpainter",
    "exec-train-landmarks",
    "exec-train-expression",
)
APPROACH_1 = Params.model_validate({"expression": {"model": "landmark_split"}})
Document = dict[str, Any]


def made_by(params: Params) -> Recipe:
    return recipe(params, policy=PromotionPolicy(), model_name="trial")


def compiled_with(params: Params, out: Path) -> tuple[Document, Document]:
    cluster = Cluster(image="registry.example/maskfer-python:1", gpus=2, data_claim="faces")
    compile_to(out, defaults=made_by(params), cluster=cluster)
    spec, platform = yaml.safe_load_all(out.read_text(encoding="utf-8"))
    return spec, platform


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, Document]:
    """Approach 1's graph, which has every step there is."""
    return compiled_with(APPROACH_1, tmp_path_factory.mktemp("compiled") / "pipeline.yaml")


def steps_in(spec: Document) -> set[str]:
    return set(spec["root"]["dag"]["tasks"]) - {"importer", "read-claim"}


def test_the_steps_follow_each_other(compiled: tuple[Document, Document]) -> None:
    tasks = compiled[0]["root"]["dag"]["tasks"]
    names = [step.replace("_", "-") for step in STEPS]
    assert steps_in(compiled[0]) == set(names)
    for before, after in pairwise(names):
        assert before in tasks[after]["dependentTasks"]
    read = tasks["train-expression"]["inputs"]["artifacts"]
    assert read["landmarks"]["taskOutputArtifact"]["producerTask"] == "train-landmarks"


def test_without_landmarks_the_graph_has_only_what_approach_2_needs(tmp_path: Path) -> None:
    params = Params.model_validate({"expression": {"aligned": False}})
    spec, _ = compiled_with(params, tmp_path / "pipeline.yaml")
    tasks = spec["root"]["dag"]["tasks"]
    names = ["train-mask-classifier", "compute-heatmaps", "train-expression", "evaluate", "register"]
    assert [step.replace("_", "-") for step in steps_of(params)] == names
    assert steps_in(spec) == set(names)
    for before, after in pairwise(names):
        assert before in tasks[after]["dependentTasks"]
    assert "landmarks" not in tasks["train-expression"]["inputs"]["artifacts"]


def test_landmarks_of_faces_as_they_are_need_no_inpainter(tmp_path: Path) -> None:
    spec, _ = compiled_with(Params(), tmp_path / "pipeline.yaml")
    tasks = spec["root"]["dag"]["tasks"]
    assert steps_in(spec) == {step.replace("_", "-") for step in STEPS} - {"train-inpainter"}
    assert "compute-heatmaps" in tasks["train-landmarks"]["dependentTasks"]
    assert "inpainter" not in tasks["train-landmarks"]["inputs"]["artifacts"]
    assert "train-landmarks" in tasks["train-expression"]["dependentTasks"]


def test_the_file_is_a_pipeline_spec_without_unknown_fields(compiled: tuple[Document, Document]) -> None:
    parsed = json_format.ParseDict(compiled[0], pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.name == "maskfer-retrain"


def test_every_reference_inside_the_file_leads_somewhere(compiled: tuple[Document, Document]) -> None:
    spec, platform = compiled
    executors = spec["deploymentSpec"]["executors"]
    tasks = spec["root"]["dag"]["tasks"]
    arguments = spec["root"]["inputDefinitions"]["parameters"]
    for task in tasks.values():
        component = spec["components"][task["componentRef"]["name"]]
        assert component["executorLabel"] in executors
        for source in _sources(task):
            if "taskOutputArtifact" in source:
                wanted = source["taskOutputArtifact"]
                producer = tasks[wanted["producerTask"]]
                made = spec["components"][producer["componentRef"]["name"]]["outputDefinitions"]["artifacts"]
                assert wanted["outputArtifactKey"] in made
            else:
                assert source["componentInputParameter"] in arguments
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].keys() <= executors.keys()


def test_only_the_training_steps_ask_for_gpus(compiled: tuple[Document, Document]) -> None:
    spec, platform = compiled
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if "container" not in executor:
            continue
        resources = executor["container"]["resources"]
        assert resources["resourceMemoryRequest"] == ("16Gi" if name in TRAINING else "8Gi")
        assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"]
        if name in TRAINING:
            assert kubernetes[name]["emptyDirMounts"][0]["volumeName"] == "shm"
            assert resources["accelerator"]["resourceCount"] == "2"
            assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
            assert kubernetes[name]["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}
            assert kubernetes[name]["tolerations"][0]["key"] == "nvidia.com/gpu"
        else:
            assert "accelerator" not in resources
            assert "tolerations" not in kubernetes.get(name, {})


def test_every_step_runs_in_the_named_image(compiled: tuple[Document, Document]) -> None:
    spec, _ = compiled
    containers = [
        each["container"] for each in spec["deploymentSpec"]["executors"].values() if "container" in each
    ]
    assert {container["image"] for container in containers} == {"registry.example/maskfer-python:1"}


def test_a_claim_is_mounted_by_one_step_which_hands_the_table_on(compiled: tuple[Document, Document]) -> None:
    # Kubeflow's importer would refuse the path: it takes addresses of object stores only.
    spec, platform = compiled
    assert not [each for each in spec["deploymentSpec"]["executors"].values() if "importer" in each]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = {name: each["pvcMount"] for name, each in executors.items() if "pvcMount" in each}
    assert mounts.keys() == {"exec-read-claim"}
    assert (mounts["exec-read-claim"][0]["constant"], mounts["exec-read-claim"][0]["mountPath"]) == (
        "faces",
        "/mnt/maskfer-data",
    )
    tasks = spec["root"]["dag"]["tasks"]
    readers = [tasks[name]["inputs"]["artifacts"]["faces"] for name in steps_in(spec)]
    table = {"producerTask": "read-claim", "outputArtifactKey": "faces"}
    assert [reader["taskOutputArtifact"] for reader in readers] == [table] * len(STEPS)


def test_a_table_in_a_store_is_imported_and_nothing_is_mounted(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.yaml"
    compile_to(out, defaults=made_by(Params()), cluster=Cluster())
    spec, platform = yaml.safe_load_all(out.read_text(encoding="utf-8"))
    tasks = spec["root"]["dag"]["tasks"]
    assert "read-claim" not in tasks
    source = tasks["train-mask-classifier"]["inputs"]["artifacts"]["faces"]["taskOutputArtifact"]
    assert source["producerTask"] == "importer"
    assert "pvcMount" not in str(platform)


def test_register_gets_the_registrys_address_and_is_never_answered_from_a_cache(
    compiled: tuple[Document, Document],
) -> None:
    spec, platform = compiled
    caching = {name: task["cachingOptions"] for name, task in spec["root"]["dag"]["tasks"].items()}
    assert caching["register"] == {}
    assert all(
        options == {"enableCache": True} for name, options in caching.items() if name in _cached(STEPS)
    )
    (variable,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-register"][
        "configMapAsEnv"
    ]
    assert variable["configMapName"] == "maskfer-settings"
    assert variable["keyToEnv"][0]["envVar"] == "MASKFER_TRACKING_URI"


def test_register_gets_the_name_of_the_model_it_was_submitted_for(
    compiled: tuple[Document, Document],
) -> None:
    root = compiled[0]["root"]
    given = root["dag"]["tasks"]["register"]["inputs"]["parameters"]["model_name"]
    assert root["inputDefinitions"]["parameters"][given["componentInputParameter"]]["defaultValue"] == "trial"


def test_a_cached_step_is_keyed_by_data_and_library(compiled: tuple[Document, Document]) -> None:
    for name in _cached(STEPS):
        inputs = compiled[0]["components"][f"comp-{name}"]["inputDefinitions"]["parameters"]
        assert inputs.keys() >= {"params", "dataset_sha256", "code_sha256"}


@pytest.mark.parametrize(
    ("section", "touched"),
    [
        ("mask_classifier", {"mask_params", "inpainter_params", "landmark_params"}),
        ("inpainting", {"inpainter_params", "landmark_params"}),
        ("landmarks", {"landmark_params"}),
        ("expression", set()),
    ],
)
def test_a_change_of_a_section_leaves_the_steps_before_it_as_they_are(
    section: str, touched: set[str]
) -> None:
    one = made_by(Params())
    other = made_by(Params.model_validate({section: {"epochs": 99}}))
    changed = {name for name, value in asdict(one).items() if value != asdict(other)[name]}
    assert changed == {"params"} | touched


def test_other_weights_at_the_same_path_train_the_expression_network_again_and_nothing_else(
    tmp_path: Path, compiled: tuple[Document, Document]
) -> None:
    weights = tmp_path / "resnet18.pth"
    params = Params.model_validate({"expression": {"backbone": "resnet18", "pretrained": str(weights)}})
    keys = [asdict(made_by(params))]
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        keys.append(asdict(made_by(params)))
    assert len({key.pop("pretrained_sha256") for key in keys}) == 3
    assert keys[0] == keys[1] == keys[2]
    tasks = compiled[0]["root"]["dag"]["tasks"]
    keyed = [name for name, task in tasks.items() if "pretrained_sha256" in task["inputs"]["parameters"]]
    assert keyed == ["train-expression"]


def test_without_gpus_nothing_is_said_about_them(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.yaml"
    compile_to(out, defaults=made_by(Params()), cluster=Cluster(gpus=0))
    assert "nvidia" not in out.read_text(encoding="utf-8")


def test_a_file_that_kubeflow_would_not_take_is_refused_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pipeline\.json.*\.yaml"):
        compile_to(
            tmp_path / "pipeline.json",
            defaults=made_by(Params()),
            cluster=Cluster(),
        )
    assert not list(tmp_path.iterdir())


def test_a_cluster_reads_from_a_store_or_a_claim_but_never_from_this_machine() -> None:
    cluster, table = cluster_of("pvc://faces/2026/faces.parquet", settings=Settings())
    assert (cluster.data_claim, table.faces_uri) == ("faces", "/mnt/maskfer-data/2026/faces.parquet")
    cluster, table = cluster_of("s3://bucket/faces.parquet", settings=Settings())
    assert (cluster.data_claim, table.faces_uri) == (None, "s3://bucket/faces.parquet")
    for wrong in ("data/faces", "pvc:///faces.parquet", "s3://bucket/photos"):
        with pytest.raises(InputError, match=r"faces\.parquet"):
            cluster_of(wrong, settings=Settings())


def _cached(steps: tuple[str, ...]) -> list[str]:
    return [step.replace("_", "-") for step in steps if step != "register"]


def _sources(task: Document) -> Iterator[Document]:
    inputs = task.get("inputs", {})
    yield from inputs.get("parameters", {}).values()
    yield from inputs.get("artifacts", {}).values()
