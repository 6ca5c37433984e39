"""Stage `train_mask_classifier`: masked or not, and where the face looks (§5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskfer import atomic
from maskfer.config import Params
from maskfer.errors import TrainingError
from maskfer.learning import architecture, export, record
from maskfer.learning.checkpoint import Checkpoint, fingerprint, path_of
from maskfer.learning.faces import load_for_training
from maskfer.learning.launch import trained
from maskfer.learning.tasks.mask import MaskTask
from maskfer.learning.training import Plan, Trainer, default_device

WEIGHTS = "mask_classifier.safetensors"


@dataclass(frozen=True, slots=True)
class MaskClassifierReport:
    """What the stage made and how good it is on `val`."""

    weights: Path
    metrics: dict[str, Any]


def run(faces: Path, out: Path, *, params: Params, checkpoints: Path | None = None) -> MaskClassifierReport:
    """Train on `faces`; write the weights, `metrics.json` and `history.csv` into `out`.

    A run that was killed goes on from its last epoch, kept in `checkpoints` (beside `out` by default).
    Raises `TrainingError` where no training face is masked, or none is not.
    """
    done = trained(trainer, faces, params=params, checkpoint=path_of(out, folder=checkpoints))
    train = done.task.train
    metrics = {"faces": len(train), "masked": int(train.is_masked.sum()), **done.metrics}
    with atomic.new_folder(out, holds=(WEIGHTS, *record.FILES)) as work:
        (work / WEIGHTS).write_bytes(export.weights_bytes(done.task.model))
        record.write(work, metrics=metrics, history=done.history)
    done.checkpoint.remove()
    return MaskClassifierReport(out / WEIGHTS, metrics)


def trainer(faces: Path, *, params: Params, checkpoint: Path) -> Trainer[MaskTask]:
    """Return what `run` runs; raises as it does."""
    train, val = load_for_training(faces, classes=params.classes, data=params.data)
    masked = int(train.is_masked.sum())
    if masked in (0, len(train)):
        raise TrainingError(
            f"{faces}: {masked} of {len(train)} training faces are masked, some of both kinds are needed; "
            "build the dataset without --no-masks, from unmasked photographs"
        )
    section, device = params.mask_classifier, default_device()
    task = MaskTask(
        model=architecture.mask_classifier(params),
        train=train,
        val=val,
        batch_size=section.batch_size,
        device=device,
    )
    return Trainer(
        task,
        Plan(section.epochs, task.steps_per_epoch, section.learning_rate),
        seed=params.seed,
        device=device,
        checkpoint=Checkpoint.of(
            checkpoint,
            fingerprint("train_mask_classifier", faces, params.seed, params.data, params.heatmap, section),
        ),
    )
