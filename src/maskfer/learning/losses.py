"""What training minimises."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from maskfer.learning.models.expression import ExpressionReading

_NONE_SEEN, _SEEN = 0.1, 0.5
"""Shares of a mask up to which the answer should be no, and from which it should be yes."""
_VERDICT_SMOOTHING = 0.04


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

    Rows with label -1 do not count; where there are no others it is 0.

    `strength` 0 is the plain loss, 1 makes the answer as if all classes were equally frequent. `smoothing`
    keeps wrong labels from being learnt by heart.

    Source: Menon et al. (2021), "Long-tail learning via logit adjustment", §4.2.
    """
    total = functional.cross_entropy(
        logits + strength * log_prior, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels >= 0).sum().clamp(min=1)


def expression(
    reading: ExpressionReading,
    labels: Int64[Tensor, " b"],
    *,
    log_prior: Float[Tensor, " classes"],
    strength: float,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Weighted sum of the heads' losses, and the network's own penalty.

    Source: §5.2 for the combined loss of two branches, which has the weights in its heads.
    """
    total = torch.stack(
        [
            head.weight
            * adjusted_cross_entropy(
                head.logits.float(), labels, log_prior=log_prior, strength=strength, smoothing=smoothing
            )
            for head in reading.heads
        ]
    ).sum()
    return total if reading.penalty is None else total + reading.penalty


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


def mask_verdict(logits: Float[Tensor, " b"], share: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Cross-entropy of "masked" with what the visible share of the mask says.

    What lies between a tenth of a mask and half of one is nobody's idea of a mask, worn or not, and does not
    count. Not in the paper.
    """
    certain = (share <= _NONE_SEEN) | (share >= _SEEN)
    label = (share >= _SEEN).float() * (1 - _VERDICT_SMOOTHING) + _VERDICT_SMOOTHING / 2
    # Not an index by `certain`: a batch may have no such face, and the mean of nothing is no number.
    each = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    return (each * certain).sum() / certain.sum().clamp(min=1)
