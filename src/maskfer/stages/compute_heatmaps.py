"""Stage `compute_heatmaps`: the exact occlusion map of every face, and the head that gives it in one pass."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskfer import atomic
from maskfer.config import Params
from maskfer.data.table import write_table
from maskfer.learning import architecture, export, heatmaps, record
from maskfer.learning.checkpoint import Checkpoint, fingerprint, path_of
from maskfer.learning.faces import Faces, load_for_training
from maskfer.learning.launch import trained
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.tasks.heatmap import HeatmapTask
from maskfer.learning.training import Plan, Trainer, default_device, one_thread_each
from maskfer.stages.train_mask_classifier import WEIGHTS

HEATMAPS = "heatmaps.parquet"
_CHUNK = 64
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
    train, val = load_for_training(faces, classes=params.classes, crop_size=params.data.crop_size)

    started = time.perf_counter()
    drops = [_sensitivity(classifier, part, params=params, device=device) for part in (train, val)]
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
    with atomic.new_folder(out, holds=(HEATMAPS, WEIGHTS, *record.FILES)) as work:
        parts = list(zip((train, val), exact, strict=True))
        _write_maps(work / HEATMAPS, parts, params=params, floor=floor)
        (work / WEIGHTS).write_bytes(export.weights_bytes(done.task.classifier))
        record.write(work, metrics=metrics, history=done.history)
    done.checkpoint.remove()
    return HeatmapReport(out / HEATMAPS, out / WEIGHTS, metrics)


def trainer(
    faces: Path, weights: Path, maps: Path, *, params: Params, checkpoint: Path
) -> Trainer[HeatmapTask]:
    """Return what fits the head of the classifier with these weights to the exact maps in the file `maps`."""
    section, device = params.heatmap, default_device()
    train, val = load_for_training(faces, classes=params.classes, crop_size=params.data.crop_size)
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
        checkpoint=Checkpoint(
            checkpoint, fingerprint("compute_heatmaps", faces, weights, params.seed, params.data, section)
        ),
    )


def _classifier(weights: Path, *, params: Params) -> MaskClassifier:
    classifier = architecture.mask_classifier(params)
    export.load_weights(classifier, weights)
    return classifier


def _sensitivity(
    classifier: MaskClassifier, faces: Faces, *, params: Params, device: torch.device
) -> Float[Tensor, "n g g"]:
    exact = heatmaps.FastSensitivity(
        classifier, side=params.data.crop_size, patch=params.heatmap.patch, stride=params.heatmap.stride
    )
    chunks = [torch.arange(start, min(len(faces), start + _CHUNK)) for start in range(0, len(faces), _CHUNK)]

    def drops(rows: Int64[Tensor, " b"]) -> Float[Tensor, "b g g"]:
        return exact(faces.batch(rows).to(device)).cpu()

    title = f"occlusion maps of {len(faces)} faces"
    # A chunk per core: the layers are too small to share one among the cores without waiting.
    with one_thread_each(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.cat(list(record.shown(pool.map(drops, chunks), title=title, total=len(chunks))))


def _write_maps(
    path: Path, parts: list[tuple[Faces, Float[Tensor, "n g g"]]], *, params: Params, floor: float
) -> None:
    # A byte a cell: H_m is used as a weight, and 1/255 is finer than it is true.
    table = pa.table(
        {
            "face_id": pa.array([name for faces, _ in parts for name in faces.face_ids], pa.string()),
            "heatmap": pa.array(
                [one.tobytes() for _, maps in parts for one in (maps * 255).round().byte().numpy()],
                pa.binary(),
            ),
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
