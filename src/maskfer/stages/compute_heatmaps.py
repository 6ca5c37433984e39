"""Stage `compute_heatmaps`: the exact occlusion map of every face, and the head that gives it in one pass."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from maskfer import atomic
from maskfer.config import Params
from maskfer.data.table import write_table
from maskfer.learning import architecture, exact_maps, export, heatmaps, record
from maskfer.learning.checkpoint import Checkpoint, fingerprint, path_of
from maskfer.learning.faces import load_for_training
from maskfer.learning.launch import trained
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.tasks.heatmap import HeatmapTask
from maskfer.learning.training import Plan, Trainer, default_device
from maskfer.stages.train_mask_classifier import WEIGHTS

HEATMAPS = "heatmaps.parquet"
_SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class HeatmapReport:
    """What the stage made; `metrics` are on `val`."""

    heatmaps: Path
    weights: Path
    metrics: dict[str, Any]


def run(
    faces: Path, mask_classifier: Path, out: Path, *, params: Params, checkpoints: Path | None = None
) -> HeatmapReport:
    """Write `heatmaps.parquet`, and the weights of `mask_classifier` with the heatmap head fitted.

    The maps are those of train and val; a face of test needs none, because the released graph makes its own.
    """
    section, device = params.heatmap, default_device()
    classifier = _classifier(mask_classifier / WEIGHTS, params=params).to(device).eval()
    train, val = load_for_training(faces, classes=params.classes, data=params.data)

    started = time.perf_counter()
    drops = [
        exact_maps.sensitivity(classifier, part, patch=section.patch, stride=section.stride)
        for part in (train, val)
    ]
    exact_seconds = time.perf_counter() - started
    floor = heatmaps.sensitivity_floor(drops[0], train.is_masked)
    exact = [
        heatmaps.attention(each, center=section.center, gain=section.gain, floor=floor) for each in drops
    ]

    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder) / "exact.safetensors"
        maps.write_bytes(export.tensor_bytes(dict(zip(_SPLITS, exact, strict=True))))
        done = trained(
            trainer,
            faces,
            mask_classifier / WEIGHTS,
            maps,
            params=params,
            checkpoint=path_of(out, folder=checkpoints),
        )
    metrics = {
        "faces": len(train) + len(val),
        "exact_seconds": round(exact_seconds, 1),
        "floor": round(floor, 5),
        **done.metrics,
    }
    by_face = {
        face_id: one
        for part, of_part in zip((train, val), exact, strict=True)
        for face_id, one in zip(part.face_ids, exact_maps.as_bytes(of_part), strict=True)
    }
    with atomic.new_folder(out, holds=(HEATMAPS, WEIGHTS, *record.FILES)) as work:
        _write_maps(work / HEATMAPS, by_face, params=params, floor=floor)
        (work / WEIGHTS).write_bytes(export.weights_bytes(done.task.classifier))
        record.write(work, metrics=metrics, history=done.history)
    done.checkpoint.remove()
    return HeatmapReport(out / HEATMAPS, out / WEIGHTS, metrics)


def trainer(
    faces: Path, weights: Path, maps: Path, *, params: Params, checkpoint: Path
) -> Trainer[HeatmapTask]:
    """Return what fits the head of the classifier with these weights to the exact maps in the file `maps`."""
    section, device = params.heatmap, default_device()
    train, val = load_for_training(faces, classes=params.classes, data=params.data)
    exact = export.read_tensors(maps)
    train_maps, val_maps = (exact[split] for split in _SPLITS)
    task = HeatmapTask(
        classifier=_classifier(weights, params=params),
        train=train,
        train_maps=train_maps,
        val=val,
        val_maps=val_maps,
        batch_size=section.batch_size,
        device=device,
        region_weight=section.region_weight,
    )
    return Trainer(
        task,
        Plan(section.epochs, task.steps_per_epoch, section.learning_rate),
        seed=params.seed,
        device=device,
        checkpoint=Checkpoint.of(
            checkpoint, fingerprint("compute_heatmaps", faces, weights, params.seed, params.data, section)
        ),
    )


def _classifier(weights: Path, *, params: Params) -> MaskClassifier:
    classifier = architecture.mask_classifier(params)
    export.load_weights(classifier, weights)
    return classifier


def _write_maps(path: Path, maps: dict[str, bytes], *, params: Params, floor: float) -> None:
    table = pa.table(
        {
            "face_id": pa.array(maps.keys(), pa.string()),
            "heatmap": pa.array(maps.values(), pa.binary()),
        }
    )
    section = params.heatmap
    metadata = {
        "grid": params.data.crop_size // section.stride,
        "patch": section.patch,
        "stride": section.stride,
        "center": section.center,
        "gain": section.gain,
        "floor": floor,
        "unit": "H_m x 255, row by row",
    }
    write_table(path, table, metadata=metadata)
