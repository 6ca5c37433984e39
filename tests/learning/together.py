"""Trainers that processes make alike when a test lets them train together."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from maskfer.learning.augment import Jitter
from maskfer.learning.checkpoint import Checkpoint
from maskfer.learning.models.inpainting import InpaintingGan
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import TwoBranchNet
from maskfer.learning.redress import Redress
from maskfer.learning.tasks.expression import ExpressionLoss, ExpressionTask
from maskfer.learning.tasks.inpainting import InpaintingLoss, InpaintingTask
from maskfer.learning.training import EpochReport, Plan, Trainer, shuffled_batches
from tests.learning.faces import make_twins

CPU = torch.device("cpu")
STILL = Jitter(
    shift=0, scale=0, rotation_deg=0, mirror=0, contrast=0, brightness=0, gamma=0, blur=0, noise=0, erase=0
)


class Telling(Trainer[Any]):
    """Leaves the hash of its last weights in a file beside the checkpoint, one for each process."""

    def epochs(self) -> Iterator[EpochReport]:
        yield from super().epochs()
        assert self.checkpoint is not None
        digest = hashlib.sha256()
        for value in self.task.model.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
        self.checkpoint.path.with_name(f"weights-{self.ranks.rank}-of-{self.ranks.count}").write_text(
            digest.hexdigest()
        )


def expression(checkpoint: Path) -> Telling:
    """Two branches with batch normalisation, on batches of seven pairs; nothing is left to chance."""
    torch.manual_seed(0)
    faces = make_twins(20)
    task = ExpressionTask(
        TwoBranchNet(classes=3, width=8, dropout=0.0),
        MaskClassifier(grid=4, width=8),
        faces,
        faces,
        classes=3,
        batch_size=14,
        device=CPU,
        weights=ExpressionLoss(0.5, 0.1, 0.5),
        jitter=STILL,
        redress=Redress(borrowed=0.0, recoloured=0.0),
    )
    return _two_epochs(task, checkpoint)


def inpainting(checkpoint: Path) -> Telling:
    """A contest: a network whose parts are called several times in a step."""
    torch.manual_seed(0)
    faces = make_twins(20)
    task = InpaintingTask(
        InpaintingGan(width=4),
        MaskClassifier(grid=4, width=8),
        faces,
        faces,
        batch_size=7,
        device=CPU,
        weights=InpaintingLoss(1.0, 0.005),
        jitter=STILL,
    )
    return _two_epochs(task, checkpoint, opponents=True, gradient_memory=0.5, weight_decay=0.0)


def _two_epochs(task: Any, checkpoint: Path, **plan: Any) -> Telling:
    return Telling(
        task,
        Plan(2, task.steps_per_epoch, 1e-3, **plan),
        seed=3,
        device=CPU,
        checkpoint=Checkpoint(checkpoint, task.title),
    )


@dataclass
class Line:
    """A line through points; in the second epoch something happens to the process with the rank `unlucky`."""

    folder: Path
    what: str
    unlucky: int
    title: str = "expression"
    model: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))
    epoch: int = 0

    def batches(self, generator: Generator) -> Iterator[Tensor]:
        self.epoch += 1
        return shuffled_batches(6, batch_size=3, generator=generator)

    def loss(self, batch: Tensor, generator: Generator) -> Tensor:
        rank = int(os.environ.get("RANK", "0"))
        with (self.folder / f"drawn-by-{rank}").open("a") as file:
            file.write(f"{torch.rand(1, generator=generator).item()} {torch.rand(1).item()}\n")
        value: Tensor = self.model(batch.float().unsqueeze(1)).square().mean()
        if self.epoch == 2 and rank == self.unlucky:
            match self.what:
                case "nan":
                    value = value * math.nan
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raise":
                    raise RuntimeError("something\nunexpected")
                case "wait":
                    time.sleep(600)
        return value

    def validate(self, model: nn.Linear) -> dict[str, float]:
        del model
        (self.folder / f"judged-by-{os.environ.get('RANK', '0')}").touch()
        return {"score": 0.0}


def line(checkpoint: Path, *, what: str = "nothing", unlucky: int = 1) -> Telling:
    """Three epochs of two steps, three rows in each."""
    if int(os.environ.get("RANK", unlucky)) != unlucky:
        # Where another process is lost this one waits to be ended, and on a busy machine that may take longer
        # than the worker has patience.
        vars(sys.modules["__main__"])["_PATIENCE_S"] = 60.0
    torch.manual_seed(0)
    return Telling(
        Line(checkpoint.parent, what, unlucky),
        Plan(3, 2, 0.5),
        seed=3,
        device=CPU,
        checkpoint=Checkpoint(checkpoint, "line"),
    )
