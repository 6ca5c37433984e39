"""The exact occlusion maps of a whole split, with every core, and as a file holds them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskfer.learning import record
from maskfer.learning.faces import Faces
from maskfer.learning.heatmaps import FastSensitivity
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.training import one_thread_each

_CHUNK = 64
"""Faces that one core works on at a time."""


def sensitivity(
    classifier: MaskClassifier, faces: Faces, *, patch: int, stride: int
) -> Float[Tensor, "n g g"]:
    """Return S_m of every face, on the processor; shows how far it is."""
    exact = FastSensitivity(classifier, side=faces.images.shape[-1], patch=patch, stride=stride)
    device = next(classifier.parameters()).device
    chunks = [torch.arange(start, min(len(faces), start + _CHUNK)) for start in range(0, len(faces), _CHUNK)]

    def drops(rows: Int64[Tensor, " b"]) -> Float[Tensor, "b g g"]:
        return exact(faces.batch(rows).to(device)).cpu()

    title = f"occlusion maps of {len(faces)} faces"
    # A chunk per core: the layers are too small to share one among the cores without waiting.
    with one_thread_each(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.cat(list(record.shown(pool.map(drops, chunks), title=title, total=len(chunks))))


def as_bytes(maps: Float[Tensor, "n g g"]) -> list[bytes]:
    """Return each H_m row by row, 255 for 1: it is used as a weight, and 1/255 is finer than it is true."""
    return [one.tobytes() for one in (maps * 255).round().byte().numpy()]
