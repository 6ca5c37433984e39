"""Stage `train_expression`: what reads expressions (§4.2, §5.2), released as one graph with all it needs.

`params.expression` says which one: either approach, an ablation, or a compared method.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskfer.config import Params
from maskfer.data.table import require_classes
from maskfer.errors import TrainingError
from maskfer.learning import architecture, export, record, start
from maskfer.learning.checkpoint import Checkpoint, fingerprint, path_of
from maskfer.learning.faces import load_for_training
from maskfer.learning.launch import Trained, trained
from maskfer.learning.models.landmark_net import LandmarkReader
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.tasks.expression import ExpressionLoss, ExpressionTask
from maskfer.learning.training import Plan, Trainer, default_device
from maskfer.release import Lineage, Release
from maskfer.stages.train_landmarks import WEIGHTS as LANDMARKS
from maskfer.stages.train_mask_classifier import WEIGHTS


@dataclass(frozen=True, slots=True)
class ExpressionReport:
    """The release, not judged yet, and how its best epoch did on `val`."""

    release: Release
    metrics: dict[str, Any]


def run(
    faces: Path,
    heatmaps: Path,
    out: Path,
    *,
    params: Params,
    lineage: Lineage,
    landmarks: Path | None = None,
    checkpoints: Path | None = None,
) -> ExpressionReport:
    """Train on `faces` with the mask classifier of `heatmaps`; write a release folder at `out`.

    `landmarks` is the folder of stage train_landmarks, for the networks that need it. A run that was killed
    goes on from its last epoch, kept in `checkpoints` (beside `out` by default). Raises `DatasetError` naming
    a class without a training face, `TrainingError` where the loss is no longer a number, or where serving
    could not give the network what it was trained with.
    """
    start.require_releasable(params.expression)
    done = train(
        faces,
        heatmaps,
        params=params,
        landmarks=landmarks,
        checkpoint=path_of(out, folder=checkpoints),
    )
    task = done.task
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / record.HISTORY
        history.write_text(record.history_csv(done.history), encoding="utf-8")
        release = export.write_release(
            out,
            model=MaskAwareNet(
                mask_classifier=task.mask_classifier, expression=task.model, landmarks=task.landmarks
            ),
            params=params,
            lineage=lineage,
            plots={f"training_{record.HISTORY}": history},
            seen=export.Seen(task.train.images.cpu().numpy(), task.val.images.cpu().numpy()),
        )
    done.checkpoint.remove()
    return ExpressionReport(release, done.metrics)


def train(
    faces: Path, heatmaps: Path, *, params: Params, checkpoint: Path, landmarks: Path | None = None
) -> Trained[ExpressionTask]:
    """Train as `run` does and release nothing; raises what `run` raises while it trains.

    To judge the network on other faces: `training.judged(done.task, others)`.
    """
    return trained(trainer, faces, heatmaps, params=params, checkpoint=checkpoint, landmarks=landmarks)


def trainer(
    faces: Path, heatmaps: Path, *, params: Params, checkpoint: Path, landmarks: Path | None = None
) -> Trainer[ExpressionTask]:
    """Return what `train` runs; raises as it does."""
    section, device = params.expression, default_device()
    require_classes(faces, params.classes)
    training, validation = load_for_training(faces, classes=params.classes, data=params.data)
    weights = heatmaps / WEIGHTS
    classifier = architecture.mask_classifier(params)
    export.load_weights(classifier, weights)
    reader = _landmark_reader(landmarks, params=params)
    read = [faces, weights]
    pretrained = start.weights(section)
    read += [] if pretrained is None else [pretrained]
    read += [] if landmarks is None else [landmarks / LANDMARKS]
    model = architecture.expression_classifier(params)
    task = ExpressionTask(
        model=model,
        mask_classifier=classifier,
        train=training,
        val=validation,
        classes=len(params.classes),
        batch_size=section.batch_size,
        device=device,
        landmarks=reader,
        weights=ExpressionLoss(
            prior_strength=section.prior_strength,
            label_smoothing=section.label_smoothing,
            consistency=section.consistency,
        ),
        true_regions=section.attention == "region",
    )
    return Trainer(
        task,
        Plan(
            section.epochs,
            task.steps_per_epoch,
            section.learning_rate,
            pretrained=frozenset() if pretrained is None else architecture.pretrained_parameters(model),
            pretrained_rate=section.pretrained_rate,
        ),
        seed=params.seed,
        device=device,
        checkpoint=Checkpoint.of(
            checkpoint,
            fingerprint("train_expression", *read, params.seed, params.classes, params.data, section),
        ),
    )


def _landmark_reader(landmarks: Path | None, *, params: Params) -> LandmarkReader | None:
    # A network that needs no landmarks is released without: what it does not need would cost time.
    section = params.expression
    if not section.reads_landmarks:
        if landmarks is not None:
            raise TrainingError(
                f"{landmarks}: expression.model {section.model!r} reads no landmarks; leave them out"
            )
        return None
    if landmarks is None:
        reads = "expression.aligned" if section.aligned else f"expression.model {section.model!r}"
        raise TrainingError(
            f"{reads} needs landmarks and none were given; run stage train_landmarks first, or compile the "
            "graph again with these params"
        )
    reader = architecture.landmark_reader(params, inpainting=section.inpaints)
    export.load_weights(reader, landmarks / LANDMARKS)
    return reader
