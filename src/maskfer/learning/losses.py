"""What training minimises."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from maskfer.learning.models.two_branch import BranchLogits


def log_priors(labels: Int64[Tensor, " n"], classes: int) -> Float[Tensor, " classes"]:
    """Logarithm of each class's share of the labels; rows with label -1 do not count."""
    counts = torch.bincount(labels[labels >= 0], minlength=classes).float()
    return torch.log(counts / counts.sum())


def adjusted_cross_entropy(
    logits: Float[Tensor, "b classes"],
    labels: Int64[Tensor, " b"],
    *,
    log_prior: Float[Tensor, " classes"],
    strength: float,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Cross-entropy with the logits lifted by the class priors while training, for rare classes.

    `strength` 0 is the plain loss, 1 makes the answer as if all classes were equally frequent. `smoothing`
    keeps wrong labels from being learnt by heart.

    Source: Menon et al. (2021), "Long-tail learning via logit adjustment", §4.2.
    """
    return functional.cross_entropy(logits + strength * log_prior, labels, label_smoothing=smoothing)


def combined(
    logits: BranchLogits,
    labels: Int64[Tensor, " b"],
    *,
    masked_branch_weight: float,
    log_prior: Float[Tensor, " classes"],
    strength: float,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Loss of the answer, and (1 - w) l_u + w l_m of the branches, in equal parts.

    Source: §5.2 for l_u and l_m. The answer's own loss is ours: without it nothing trains what ships.
    """
    answer, unmasked, masked = (
        adjusted_cross_entropy(
            branch.float(), labels, log_prior=log_prior, strength=strength, smoothing=smoothing
        )
        for branch in logits
    )
    branches = (1 - masked_branch_weight) * unmasked + masked_branch_weight * masked
    return (answer + branches) / 2


def twin_consistency(
    masked: Float[Tensor, "b classes"], unmasked: Float[Tensor, "b classes"]
) -> Float[Tensor, ""]:
    """Divergence of the answer on the masked twin from the answer on the same face unmasked.

    The unmasked answer is the teacher and gets no gradient: it sees the mouth. Not in the paper.
    """
    return functional.kl_div(
        functional.log_softmax(masked.float(), dim=1),
        functional.log_softmax(unmasked.detach().float(), dim=1),
        reduction="batchmean",
        log_target=True,
    )
