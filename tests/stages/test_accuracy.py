"""The accuracy table's trials: one protocol, nothing done twice, everything in MLflow."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from maskfer import provenance
from maskfer import release as releases
from maskfer.config import DataParams, InpaintingParams, LandmarksParams, Params, Settings
from maskfer.data.table import FacesTable, write_table
from maskfer.errors import DatasetError, StageFailed, TrainingError
from maskfer.learning import cost, systems
from maskfer.learning.training import machine
from maskfer.registry.connection import connect
from maskfer.stages import accuracy, train_expression

PARAMS = Params.model_validate(
    {
        "mask_classifier": {"epochs": 1, "batch_size": 16, "width": 8},
        "heatmap": {"epochs": 1, "batch_size": 16, "patch": 24, "stride": 12},
        "expression": {"epochs": 1, "batch_size": 16, "width": 8},
    }
)
SYSTEMS = [systems.SYSTEMS[name] for name in ("two_branch", "true_region")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accuracy")


@pytest.fixture(scope="module")
def trials(toy_faces: Path, work: Path) -> list[accuracy.Trial]:
    return list(
        accuracy.run(toy_faces, work, params=PARAMS, systems=SYSTEMS, seeds=[1], real_masks=toy_faces)
    )


def test_every_system_is_judged_on_masked_and_unmasked_test_faces(trials: list[accuracy.Trial]) -> None:
    assert [trial.system.name for trial in trials] == ["two_branch", "true_region"]
    for trial in trials:
        assert trial.trained
        assert trial.result["parameters"] > 0
        for kind in ("masked", "unmasked"):
            assert 0 <= trial.result[kind]["accuracy"] <= 1


def test_what_ships_is_timed_and_judged_on_real_masks(trials: list[accuracy.Trial]) -> None:
    released, unreleased = trials

    assert released.result["ms_a_face"] > 0
    assert 0 <= released.result["real_mask_accuracy"] <= 1
    assert released.result["trained_on"] == machine()
    assert released.release is not None
    assert (released.release / "model.onnx").is_file()
    assert unreleased.release is None


def test_a_face_takes_as_long_with_every_seed(
    toy_faces: Path, trials: list[accuracy.Trial], work: Path
) -> None:
    [timed] = (path for path in (work / "timed").iterdir() if path.is_dir())

    assert json.loads((timed / accuracy.RESULT).read_text()) == {"ms_a_face": trials[0].result["ms_a_face"]}
    shared = accuracy._Shared(toy_faces, work / "seed-2", trials[0].lineage)
    other_seed = trials[0].params.model_copy(update={"seed": 2})
    assert accuracy._ms_a_face(shared, other_seed) == trials[0].result["ms_a_face"]


def test_another_processor_is_timed_for_itself(
    toy_faces: Path, trials: list[accuracy.Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([1.0, 2.0])

    def timed(out: Path, **_: object) -> None:
        out.mkdir()
        (out / accuracy.RESULT).write_text(json.dumps({"ms_a_face": next(taken)}))

    monkeypatch.setattr(accuracy, "_time", timed)
    shared = accuracy._Shared(toy_faces, tmp_path / "seed-1", trials[0].lineage)

    for processor, expected in (("one", 1.0), ("another", 2.0), ("one", 1.0)):
        monkeypatch.setattr(cost, "processor", lambda name=processor: name)
        assert accuracy._ms_a_face(shared, trials[0].params) == expected


def test_a_second_run_trains_nothing_and_says_so(
    toy_faces: Path, work: Path, trials: list[accuracy.Trial]
) -> None:
    again = list(
        accuracy.run(toy_faces, work, params=PARAMS, systems=SYSTEMS, seeds=[1], real_masks=toy_faces)
    )

    assert [trial.trained for trial in again] == [False, False]
    assert [trial.result for trial in again] == [trial.result for trial in trials]


@pytest.mark.usefixtures("trials")
def test_what_comes_before_the_expression_is_trained_once_for_all_systems(work: Path) -> None:
    shared = [
        path.name.rpartition("-")[0] for path in (work / "seed-1" / "shared").iterdir() if path.is_dir()
    ]

    assert sorted(shared) == ["heatmaps", "masks"]


def test_new_code_that_judges_judges_anew_and_trains_nothing(
    toy_faces: Path,
    work: Path,
    trials: list[accuracy.Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = shutil.copytree(work, tmp_path / "work")
    hashed = provenance.code_sha256
    monkeypatch.setattr(
        provenance,
        "code_sha256",
        lambda *modules: "changed" if "maskfer.stages.accuracy" in modules else hashed(*modules),
    )

    [again] = accuracy.run(
        toy_faces, copied, params=PARAMS, systems=SYSTEMS[:1], seeds=[1], real_masks=toy_faces
    )

    assert not again.trained
    assert again.judged != trials[0].judged.relative_to(work) / copied
    assert again.result["masked"] == trials[0].result["masked"]


def test_what_another_process_is_making_is_waited_for_and_not_made_twice(
    toy_faces: Path, work: Path, trials: list[accuracy.Trial]
) -> None:
    made = trials[0].release
    assert made is not None
    done: list[accuracy.Trial] = []

    def read_back() -> None:
        done.extend(
            accuracy.run(toy_faces, work, params=PARAMS, systems=SYSTEMS[:1], seeds=[1], real_masks=toy_faces)
        )

    thread = threading.Thread(target=read_back)
    with FileLock(made.with_name(f"{made.name}.lock")):
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
        assert not done
    thread.join()

    assert [trial.trained for trial in done] == [False]


@pytest.mark.usefixtures("trials")
def test_while_another_process_has_a_trial_the_others_are_done_first(toy_faces: Path, work: Path) -> None:
    done: queue.Queue[str] = queue.Queue()

    def read_back() -> None:
        for trial in accuracy.run(
            toy_faces, work, params=PARAMS, systems=SYSTEMS, seeds=[1], real_masks=toy_faces
        ):
            done.put(trial.system.name)

    thread = threading.Thread(target=read_back)
    with FileLock(work / "seed-1" / "two_branch.lock"):
        thread.start()
        assert done.get(timeout=60) == "true_region"
        thread.join(timeout=1)
        assert done.empty()
    assert done.get(timeout=60) == "two_branch"
    thread.join()


@pytest.mark.usefixtures("trials")
def test_parameters_that_a_system_does_not_read_change_nothing(toy_faces: Path, work: Path) -> None:
    changed = PARAMS.model_copy(
        update={"inpainting": InpaintingParams(epochs=3), "landmarks": LandmarksParams(epochs=3)}
    )

    [again] = accuracy.run(
        toy_faces, work, params=changed, systems=SYSTEMS[:1], seeds=[1], real_masks=toy_faces
    )

    assert not again.trained


def test_a_changed_parameter_is_trained_anew_and_a_failure_keeps_what_is_finished(
    toy_faces: Path, work: Path, trials: list[accuracy.Trial], tmp_path: Path
) -> None:
    copied = shutil.copytree(work, tmp_path / "work")
    diverging = replace(SYSTEMS[1], overrides={"expression": {"learning_rate": 1e30, "epochs": 2}})
    done: list[accuracy.Trial] = []
    running = accuracy.run(
        toy_faces, copied, params=PARAMS, systems=[SYSTEMS[0], diverging], seeds=[1], real_masks=toy_faces
    )

    with pytest.raises(TrainingError, match="expression"):
        done.extend(running)

    assert [(trial.system.name, trial.trained) for trial in done] == [("two_branch", False)]
    # What the failed system had made with other parameters is there still.
    again = list(
        accuracy.run(toy_faces, copied, params=PARAMS, systems=SYSTEMS, seeds=[1], real_masks=toy_faces)
    )
    assert [trial.trained for trial in again] == [False, False]
    assert [trial.result for trial in again] == [trial.result for trial in trials]


def test_a_table_that_is_replaced_meanwhile_ends_the_run_before_its_faces_are_taken_for_the_others(
    toy_faces: Path, work: Path, trials: list[accuracy.Trial], tmp_path: Path
) -> None:
    copied, faces = shutil.copytree(work, tmp_path / "work"), tmp_path / "faces.parquet"
    shutil.copyfile(toy_faces, faces)
    running = accuracy.run(faces, copied, params=PARAMS, systems=SYSTEMS, seeds=[1], real_masks=toy_faces)
    assert next(running).result == trials[0].result

    table = FacesTable.read(faces)
    write_table(faces, table.table.slice(1), metadata=table.metadata)

    with pytest.raises(StageFailed, match="replaced since the run was started"):
        next(running)


@pytest.mark.usefixtures("trials")
def test_what_was_trained_before_is_recorded_with_the_code_that_trained_it(
    toy_faces: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "git_revision", lambda: "later")

    found = list(
        accuracy.run(toy_faces, work, params=PARAMS, systems=SYSTEMS[:1], seeds=[1], real_masks=toy_faces)
    )

    assert found[0].release is not None
    assert found[0].lineage == releases.read(found[0].release).metadata.lineage
    assert found[0].lineage.git_revision != "later"


def test_where_somebody_hears_of_failures_the_other_systems_go_on(
    toy_faces: Path, work: Path, trials: list[accuracy.Trial], tmp_path: Path
) -> None:
    copied = shutil.copytree(work, tmp_path / "work")
    diverging = replace(SYSTEMS[1], overrides={"expression": {"learning_rate": 1e30, "epochs": 2}})
    heard: list[tuple[str, int, str]] = []

    done = list(
        accuracy.run(
            toy_faces,
            copied,
            params=PARAMS,
            systems=[diverging, SYSTEMS[0]],
            seeds=[1],
            real_masks=toy_faces,
            on_failure=lambda system, seed, error: heard.append((system.name, seed, str(error))),
        )
    )

    assert [trial.result for trial in done] == [trials[0].result]
    [(name, seed, said)] = heard
    assert (name, seed) == ("true_region", 1)
    assert "expression" in said


def test_an_accelerator_that_is_full_before_a_training_begins_costs_one_trial(
    toy_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(accuracy.train_mask_classifier, "run", full)
    heard: list[str] = []

    done = accuracy.run(
        toy_faces,
        tmp_path,
        params=PARAMS,
        systems=SYSTEMS,
        seeds=[1],
        on_failure=lambda _system, _seed, error: heard.append(str(error)),
    )

    assert list(done) == []
    assert [line.partition(": the accelerator is full")[0] for line in heard] == [
        "two_branch, seed 1",
        "true_region, seed 1",
    ]


@pytest.mark.usefixtures("trials")
def test_what_is_not_trained_yet_is_left_out_when_nothing_is_to_be_trained(
    toy_faces: Path, work: Path
) -> None:
    known = [*SYSTEMS, systems.SYSTEMS["equal_losses"]]

    found = list(
        accuracy.run(
            toy_faces, work, params=PARAMS, systems=known, seeds=[1, 2], real_masks=toy_faces, train=False
        )
    )

    assert [(trial.system.name, trial.seed) for trial in found] == [(one.name, 1) for one in SYSTEMS]
    assert not (work / "seed-2").exists()


@pytest.mark.usefixtures("trials")
def test_nor_is_what_comes_before_the_expression_trained_then(
    toy_faces: Path, work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def judge(_: Path, *, shared: accuracy._Shared, params: Params, **__: object) -> None:
        replace(shared, folder=tmp_path).heatmaps(params)

    monkeypatch.setattr(accuracy, "_judge", judge)

    # Without real masks nobody has judged them yet.
    found = accuracy.run(toy_faces, work, params=PARAMS, systems=SYSTEMS, seeds=[1], train=False)

    assert list(found) == []
    assert not list(tmp_path.iterdir())


def test_every_trial_is_a_run_in_mlflow_once(trials: list[accuracy.Trial], settings: Settings) -> None:
    for _ in range(2):
        for trial in trials:
            accuracy.log(trial, settings=settings)

    client = connect(settings, create=False)
    experiment = client.get_experiment_by_name(f"{settings.model_name}-accuracy")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["true_region-seed-1", "two_branch-seed-1"]
    [first] = [run for run in runs if run.info.run_name == "two_branch-seed-1"]
    assert first.data.metrics["masked/accuracy"] == trials[0].result["masked"]["accuracy"]
    assert first.data.params["expression.model"] == "two_branch"


def test_the_table_is_written_into_a_page_and_leaves_the_rest(
    trials: list[accuracy.Trial], tmp_path: Path
) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nBefore.\n")

    for _ in range(2):
        accuracy.write_table(trials, tmp_path / "table.md", params=PARAMS, systems=SYSTEMS, page=page)

    text = page.read_text()
    assert text.startswith("# Results\n\nBefore.\n")
    assert text.count("| approach 2 | 1 |") == 1
    assert (tmp_path / "table.md").read_text() in text
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_in_the_order_asked_for_whatever_was_done_first(
    trials: list[accuracy.Trial], tmp_path: Path
) -> None:
    known = [*SYSTEMS, systems.SYSTEMS["equal_losses"]]

    accuracy.write_table(trials[::-1], tmp_path / "table.md", params=PARAMS, systems=known)

    lines = (tmp_path / "table.md").read_text().splitlines()
    [first, second] = [line for line in lines if " | 1 | " in line]
    assert first.startswith("| approach 2 |")
    assert second.startswith("| the true region")


def test_a_table_of_another_size_is_refused_before_anything_is_trained(
    toy_faces: Path, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"data": DataParams(crop_size=64)})

    with pytest.raises(DatasetError, match=r"faces\.parquet: its faces are 96 pixels wide"):
        next(accuracy.run(toy_faces, tmp_path / "work", params=params, systems=SYSTEMS, seeds=[1]))

    assert not (tmp_path / "work").exists()


def test_a_table_without_test_people_is_refused_before_anything_is_trained(
    toy_faces: Path, tmp_path: Path
) -> None:
    table = FacesTable.read(toy_faces)
    kept = np.array(table.column("split")) != "test"
    write_table(tmp_path / "faces.parquet", table.where(kept).table, metadata=dict(table.metadata))
    trials = accuracy.run(
        tmp_path / "faces.parquet", tmp_path / "work", params=PARAMS, systems=SYSTEMS, seeds=[1]
    )

    with pytest.raises(DatasetError, match=r"none of its \d+ faces is of test people"):
        next(trials)

    assert not (tmp_path / "work").exists()


def test_the_network_that_reads_the_true_region_is_not_released(toy_faces: Path, tmp_path: Path) -> None:
    params = systems.SYSTEMS["true_region"].params(PARAMS, seed=1)

    with pytest.raises(TrainingError, match="region"):
        train_expression.run(
            toy_faces,
            tmp_path / "maps",
            tmp_path / "release",
            params=params,
            lineage=None,  # type: ignore[arg-type]
        )
