"""Figures that choose an epoch; what a release is judged by is `maskfer.evaluation`, on its graph."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def accuracy(answers: Int64[Tensor, " n"], labels: Int64[Tensor, " n"]) -> float:
    """Share of right answers; 0 where there is no row."""
    return float((answers == labels).float().mean()) if len(labels) else 0.0


def macro_f1(answers: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], *, classes: int) -> float:
    """Mean F1 over the classes that the labels or the answers hold; 0 where there is no row."""
    right = torch.bincount(labels[answers == labels], minlength=classes)
    both = torch.bincount(labels, minlength=classes) + torch.bincount(answers, minlength=classes)
    present = both > 0
    return float((2 * right[present] / both[present]).mean()) if present.any() else 0.0
