"""Stage `evaluate`: a release answers the test faces and is judged."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from maskfer import atomic
from maskfer import release as releases
from maskfer.config import EvaluationParams, Params
from maskfer.data.table import FacesTable, table_sha256
from maskfer.errors import DatasetError
from maskfer.evaluation import Evaluation, evaluate
from maskfer.evaluation.plots import write_plots
from maskfer.evaluation.predictions import columns_needed
from maskfer.inference import Analyzer
from maskfer.release import Release

METRICS: Final = "metrics.json"
PREDICTIONS: Final = "predictions.parquet"
PLOTS: Final = "plots"


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """The figures that a run of the stage wrote."""

    out: Path
    metrics: dict[str, Any]


def run(release_dir: Path, faces: Path, out: Path, *, params: Params, split: str = "test") -> EvaluateReport:
    """Judge a release; write `out/metrics.json`, `out/predictions.parquet` and `out/plots/*.png`."""
    release = releases.read(release_dir)
    evaluation = judge_release(release, faces, split=split, params=params.evaluation)
    metrics = described(evaluation, release, faces, split=split)
    with atomic.new_folder(out, holds=(METRICS, PREDICTIONS, PLOTS)) as work:
        (work / METRICS).write_text(to_text(metrics), encoding="utf-8")
        evaluation.predictions.write(work / PREDICTIONS)
        write_plots(evaluation, work / PLOTS, bins=params.evaluation.calibration_bins)
    return EvaluateReport(out, metrics)


def judge_release(release: Release, faces: Path, *, split: str, params: EvaluationParams) -> Evaluation:
    """Evaluate a release on one split of a faces table, with all cores.

    Raises `DatasetError` where the split has no face.
    """
    table = FacesTable.read(faces, split=split, columns=[*columns_needed(release.classes), "split"])
    if len(table) == 0:
        raise DatasetError(
            f"{faces}: no face in split '{split}'; build the dataset with data.test_fraction above 0 or give "
            "--split train, val or test"
        )
    return evaluate(Analyzer(release, threads=len(os.sched_getaffinity(0))), table, params=params)


def described(evaluation: Evaluation, release: Release, faces: Path, *, split: str) -> dict[str, Any]:
    """Return the figures together with what was judged on what."""
    return {
        "release_sha256": release.sha256,
        "dataset_sha256": table_sha256(faces),
        "split": split,
        **evaluation.to_json(),
    }


def to_text(metrics: dict[str, Any]) -> str:
    """Return the figures as the text of a JSON file."""
    return json.dumps(metrics, indent=2, allow_nan=False) + "\n"
