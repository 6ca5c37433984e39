"""`dvc repro` and `maskfer retrain` on a laptop: the real stages, graph, cache, registry; tiny networks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from maskfer.config import Params
from maskfer.data.table import table_sha256
from pipelines.retrain import steps_of
from tests.pipelines.laptop import Laptop

# The first test waits for the whole line; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)


def test_from_photographs_to_a_registered_version(reproduced: Laptop) -> None:
    metrics = reproduced.read_json("runs/latest/metrics.json")
    assert metrics["slices"].keys() >= {"masked", "unmasked", "orientation"}
    assert reproduced.read_json("runs/latest/decision.json")["version"] == 1
    assert {path.name for path in (reproduced.root / "runs/latest/release").iterdir()} >= {
        "model.onnx",
        "model.safetensors",
        "model.json",
        "MODEL_CARD.md",
    }
    assert "v1" in reproduced.maskfer("models", "list")


def test_the_release_says_where_it_comes_from(reproduced: Laptop) -> None:
    lineage = reproduced.read_json("runs/latest/release/model.json")["lineage"]
    lock = yaml.safe_load((reproduced.root / "dvc.lock").read_text(encoding="utf-8"))
    faces = next(
        out for out in lock["stages"]["wear_masks"]["outs"] if out["path"] == "data/faces/faces.parquet"
    )
    assert lineage["git_revision"].removesuffix("-dirty") == reproduced.commit
    assert lineage["dvc_revision"] == faces["md5"]
    assert lineage["dataset_sha256"] == table_sha256(reproduced.root / "data/faces/faces.parquet")


def test_a_second_reproduction_does_nothing(reproduced: Laptop) -> None:
    told = reproduced.run("dvc", "repro")
    assert "Running stage" not in told
    assert "up to date" in told


def test_dvc_shows_the_figures_of_a_run(reproduced: Laptop) -> None:
    shown = reproduced.run("dvc", "metrics", "show", "--json")
    assert '"macro_f1"' in shown


@pytest.mark.parametrize(
    ("section", "change", "first"),
    [
        ("seed: 7", "seed: 8", "ingest"),
        ("val_fraction: 0.3", "val_fraction: 0.2", "ingest"),
        ("masking: {}", "masking: {patterned: 0.5}", "wear_masks"),
        ("nothing", "nothing", None),
        ("expression: {epochs: 1", "expression: {epochs: 2", "retrain"),
    ],
)
def test_a_changed_parameter_touches_the_first_stage_that_reads_it(
    reproduced: Laptop, section: str, change: str, first: str | None
) -> None:
    params = reproduced.root / "params.yaml"
    before = params.read_text(encoding="utf-8")
    params.write_text(before.replace(section, change), encoding="utf-8")
    try:
        # The status of a stage whose own inputs changed; what follows from it is only known when it ran.
        told = reproduced.run("dvc", "status")
    finally:
        params.write_text(before, encoding="utf-8")
    stages = re.findall(r"^(\w+):\n\tchanged deps:\n\t\tparams.yaml:", told, flags=re.MULTILINE)
    order = ["ingest", "align", "wear_masks", "retrain"]
    assert (min(stages, key=order.index) if stages else None) == first


def test_only_what_depends_on_a_change_runs_again_and_going_back_runs_nothing(reproduced: Laptop) -> None:
    params = reproduced.root / "params.yaml"
    before, faces = params.read_text(encoding="utf-8"), reproduced.root / "data/faces/faces.parquet"
    drawn = table_sha256(faces)
    params.write_text(before.replace("masking: {}", "masking: {types: [cloth]}"), encoding="utf-8")
    told = reproduced.run("dvc", "repro", "wear_masks")
    assert re.findall(r"Running stage '(\w+)'", told) == ["wear_masks"]
    assert table_sha256(faces) != drawn
    params.write_text(before, encoding="utf-8")
    told = reproduced.run("dvc", "repro", "wear_masks")
    assert "is cached - skipping run" in told
    assert table_sha256(faces) == drawn


def test_an_unchanged_retrain_comes_from_the_cache_and_registers_nothing_new(
    reproduced: Laptop, tmp_path: Path
) -> None:
    earlier = tmp_path / "results"
    shutil.copytree(reproduced.root / "runs/latest", earlier)
    arguments = ("--data", "data/faces", "--work", str(earlier), "--params", "params.yaml")
    told = reproduced.maskfer("retrain", *arguments)
    for step in steps_of(Params())[:-1]:
        assert f"{step}: cached" in told
    assert "register: done" in told
    version, _, _, advice = told.splitlines()[-4:]
    assert "v1:" in version
    assert advice.startswith("try next   expression: {backbone: face_resnet}")
    assert not reproduced.left_behind()


def test_approach_1_is_one_parameter_away_and_its_mask_steps_are_cached(
    reproduced: Laptop, tmp_path: Path
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        (reproduced.root / "params.yaml")
        .read_text(encoding="utf-8")
        .replace("inpainting: {}", "inpainting: {epochs: 1, batch_size: 8, width: 4}")
        .replace("expression: {", "expression: {model: landmark_split, "),
        encoding="utf-8",
    )
    told = reproduced.maskfer("retrain", "--data", "data/faces", "--params", str(params))
    for step in ("train_mask_classifier", "compute_heatmaps"):
        assert f"{step}: cached" in told
    for step in ("train_inpainter", "train_landmarks", "train_expression"):
        assert f"{step}: done" in told
    table = told[told.index("Retrained") :]
    places = [table.index(step) for step in steps_of(Params.load(params))]
    assert places == sorted(places)
    assert not reproduced.left_behind()


def test_a_failing_stage_names_itself_shows_its_last_lines_and_leaves_what_was_there(
    reproduced: Laptop, tmp_path: Path
) -> None:
    table = pq.read_table(reproduced.root / "data/faces/faces.parquet")
    (tmp_path / "unmasked").mkdir()
    pq.write_table(table.filter(pc.invert(table["is_masked"])), tmp_path / "unmasked/faces.parquet")
    results = tmp_path / "results"
    shutil.copytree(reproduced.root / "runs/latest", results)
    arguments = ("--data", str(tmp_path / "unmasked"), "--work", str(results), "--params", "params.yaml")
    failed = reproduced.attempt("maskfer", "retrain", *arguments)
    assert failed.returncode == 2
    first, *_ = failed.stderr.splitlines()
    assert first.startswith("maskfer: error: stage train_mask_classifier failed: ")
    assert "training faces are masked, some of both kinds are needed" in first
    (log,) = re.findall(r"full log: (.+)", failed.stderr)
    assert "Traceback" in Path(log).read_text(encoding="utf-8")
    assert sorted(results.rglob("*")) == sorted(
        results / path.relative_to(reproduced.root / "runs/latest")
        for path in (reproduced.root / "runs/latest").rglob("*")
    )
    assert not reproduced.left_behind()
