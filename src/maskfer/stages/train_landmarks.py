"""Stage `train_landmarks`: the 68 landmarks of a face, under a mask too (§4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from maskfer import atomic
from maskfer.config import Params
from maskfer.errors import TrainingError
from maskfer.learning import architecture, export, record
from maskfer.learning.checkpoint import Checkpoint, fingerprint, path_of
from maskfer.learning.faces import Faces, load, load_for_training
from maskfer.learning.launch import trained
from maskfer.learning.models.landmark_net import LandmarkReader
from maskfer.learning.tasks.landmarks import LandmarkTask, taught
from maskfer.learning.training import Plan, Trainer, default_device, judged
from maskfer.stages.train_inpainter import WEIGHTS as INPAINTER
from maskfer.stages.train_mask_classifier import WEIGHTS as CLASSIFIER

WEIGHTS: Final = "landmarks.safetensors"


@dataclass(frozen=True, slots=True)
class LandmarksReport:
    """What the stage made and how good it is on `val`."""

    weights: Path
    metrics: dict[str, Any]


def run(
    faces: Path,
    heatmaps: Path,
    out: Path,
    *,
    params: Params,
    inpainter: Path | None = None,
    checkpoints: Path | None = None,
) -> LandmarksReport:
    """Train on `faces`, inpainted by `inpainter` if given; write both networks' weights, metrics, history.

    The mask classifier of `heatmaps` says where to paint. A run that was killed goes on from its last epoch,
    kept in `checkpoints` (beside `out` by default). Raises `TrainingError` where a split has no landmarks.
    """
    done = trained(
        trainer,
        faces,
        heatmaps,
        params=params,
        checkpoint=path_of(out, folder=checkpoints),
        inpainter=inpainter,
    )
    reader = LandmarkReader(done.task.model, inpainter=done.task.inpainter)
    metrics = {"faces": int(taught(done.task.train).sum()), **done.metrics}
    with atomic.new_folder(out, holds=(WEIGHTS, *record.FILES)) as work:
        (work / WEIGHTS).write_bytes(export.weights_bytes(reader))
        record.write(work, metrics=metrics, history=done.history)
    done.checkpoint.remove()
    return LandmarksReport(out / WEIGHTS, metrics)


def judge(
    faces: Path,
    heatmaps: Path,
    landmarks: Path,
    *,
    params: Params,
    inpainter: Path | None = None,
    split: str = "test",
) -> dict[str, float]:
    """Return the figures of what `run` left in the folder `landmarks` on another split of `faces`.

    There are none where that split has no landmarks to compare with.
    """
    checkpoint = path_of(landmarks, folder=None)
    task = trainer(faces, heatmaps, params=params, checkpoint=checkpoint, inpainter=inpainter).task
    export.load_weights(LandmarkReader(task.model, inpainter=task.inpainter), landmarks / WEIGHTS)
    others = load(faces, split=split, classes=params.classes, data=params.data)
    if not taught(others).any():
        return {}
    return judged(task, others)


def trainer(
    faces: Path, heatmaps: Path, *, params: Params, checkpoint: Path, inpainter: Path | None = None
) -> Trainer[LandmarkTask]:
    """Return what `run` runs; raises as it does."""
    section, device = params.landmarks, default_device()
    train, val = load_for_training(faces, classes=params.classes, data=params.data)
    _require_landmarks({"train": train, "val": val}, path=faces)
    used = [heatmaps / CLASSIFIER] + ([] if inpainter is None else [inpainter / INPAINTER])
    classifier = architecture.mask_classifier(params)
    export.load_weights(classifier, heatmaps / CLASSIFIER)
    reader = architecture.landmark_reader(params, inpainting=inpainter is not None)
    if inpainter is not None and reader.inpainter is not None:
        export.load_weights(reader.inpainter, inpainter / INPAINTER)
    # A coordinate's own mean, so that training begins with what differs between faces. Not the task's doing:
    # one is made anew to judge on other faces what is trained already.
    reader.network.start_from(train.landmarks[taught(train)].mean(dim=0))
    task = LandmarkTask(
        model=reader.network,
        mask_classifier=classifier,
        inpainter=reader.inpainter,
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
            checkpoint, fingerprint("train_landmarks", faces, *used, params.seed, params.data, section)
        ),
    )


def _require_landmarks(splits: dict[str, Faces], *, path: Path) -> None:
    for name, faces in splits.items():
        if not taught(faces).any():
            raise TrainingError(
                f"{path}: none of {len(faces)} faces of split '{name}' has landmarks to learn from (those of "
                "unmasked faces and their drawn twins count); build the dataset with `maskfer data build`"
            )
