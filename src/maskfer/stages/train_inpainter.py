"""Stage `train_inpainter`: a generator that paints the face where its mask is (§4.1)."""

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
from maskfer.learning.tasks.inpainting import InpaintingLoss, InpaintingTask, drawn_twins
from maskfer.learning.training import Plan, Trainer, default_device, judged
from maskfer.stages.train_mask_classifier import WEIGHTS as CLASSIFIER

WEIGHTS: Final = "inpainter.safetensors"


@dataclass(frozen=True, slots=True)
class InpainterReport:
    """What the stage made and how good it is on `val`."""

    weights: Path
    metrics: dict[str, Any]


def run(
    faces: Path, heatmaps: Path, out: Path, *, params: Params, checkpoints: Path | None = None
) -> InpainterReport:
    """Train on the drawn twins of `faces`; write the generator's weights, `metrics.json`, `history.csv`.

    The mask classifier of `heatmaps` says where to paint. A run that was killed goes on from its last epoch,
    kept in `checkpoints` (beside `out` by default). Raises `TrainingError` where a split has no drawn mask.
    """
    done = trained(trainer, faces, heatmaps, params=params, checkpoint=path_of(out, folder=checkpoints))
    metrics = {"pairs": len(drawn_twins(done.task.train)), **done.metrics}
    with atomic.new_folder(out, holds=(WEIGHTS, *record.FILES)) as work:
        (work / WEIGHTS).write_bytes(export.weights_bytes(done.task.model.generator))
        record.write(work, metrics=metrics, history=done.history)
    done.checkpoint.remove()
    return InpainterReport(out / WEIGHTS, metrics)


def judge(
    faces: Path, heatmaps: Path, inpainter: Path, *, params: Params, split: str = "test"
) -> dict[str, float]:
    """Return the figures of what `run` left in the folder `inpainter` on another split of `faces`.

    There are none where that split has no drawn mask.
    """
    task = trainer(faces, heatmaps, params=params, checkpoint=path_of(inpainter, folder=None)).task
    export.load_weights(task.model.generator, inpainter / WEIGHTS)
    others = load(faces, split=split, classes=params.classes, data=params.data)
    if len(drawn_twins(others)) == 0:
        return {}
    return judged(task, others)


def trainer(faces: Path, heatmaps: Path, *, params: Params, checkpoint: Path) -> Trainer[InpaintingTask]:
    """Return what `run` runs; raises as it does."""
    section, device = params.inpainting, default_device()
    train, val = load_for_training(faces, classes=params.classes, data=params.data)
    _require_drawn_twins({"train": train, "val": val}, path=faces)
    weights = heatmaps / CLASSIFIER
    classifier = architecture.mask_classifier(params)
    export.load_weights(classifier, weights)
    task = InpaintingTask(
        model=architecture.inpainting_gan(params),
        mask_classifier=classifier,
        train=train,
        val=val,
        batch_size=section.batch_size,
        device=device,
        weights=InpaintingLoss(section.reconstruction, section.adversarial),
    )
    return Trainer(
        task,
        # The usual ones of a contest: short memory, because the goal moves, and no decay.
        Plan(
            section.epochs,
            task.steps_per_epoch,
            section.learning_rate,
            weight_decay=0.0,
            gradient_memory=0.5,
            opponents=True,
        ),
        seed=params.seed,
        device=device,
        checkpoint=Checkpoint.of(
            checkpoint, fingerprint("train_inpainter", faces, weights, params.seed, params.data, section)
        ),
    )


def _require_drawn_twins(splits: dict[str, Faces], *, path: Path) -> None:
    for name, faces in splits.items():
        if len(drawn_twins(faces)) == 0:
            raise TrainingError(
                f"{path}: none of {len(faces)} faces of split '{name}' is a drawn twin, the inpainter learns "
                "from those; build the dataset without --no-masks, from unmasked photographs"
            )
