"""RAN, region attention network: the face and five crops of it, weighed against each other.

Source: Wang et al. (2020), "Region attention networks for pose and occlusion robust facial expression
recognition", §III. One ResNet-18 reads all six regions; self-attention (alpha) weighs each by itself;
relation attention (beta) weighs it against the weighted mean of all; the region-biased loss asks that some
crop count more than the full face. The crops are the paper's fixed ones: 75 % of the face at the upper left,
the upper right and the lower middle, 90 % and 85 % in the middle. Deviations: regions of a grey crop of 96
pixels, enlarged to it again; no weights of face recognition to start from; dropout as in the common protocol.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.backbones import Normalise, resnet18
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

_CROPS = ((0.0, 0.0, 0.75), (0.25, 0.0, 0.75), (0.125, 0.25, 0.75), (0.05, 0.05, 0.9), (0.075, 0.075, 0.85))
"""Left, top and side, in sides of the face."""
_REGIONS = 1 + len(_CROPS)


class RANNet(ExpressionNet):
    """Logits from the attended mean of all regions; the penalty is the region-biased loss.

    `margin` is the difference of alpha at which that loss ends; `width` scales the channels of all layers.
    """

    def __init__(
        self, *, classes: int, margin: float = 0.02, dropout: float = 0.2, width: float = 1.0
    ) -> None:
        super().__init__()
        self.margin = margin
        self.normalise = Normalise()
        self.backbone = resnet18(width=width)
        channels = self.backbone.channels
        self.self_attention = nn.Linear(channels, 1)
        self.relation_attention = nn.Linear(2 * channels, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels, classes))

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        pictures = regions(self.normalise(faces))
        maps = self.backbone(pictures.flatten(0, 1))
        features = maps.mean(dim=(2, 3)).unflatten(0, (-1, _REGIONS))
        log_alpha = _log_sigmoid(self.self_attention(features))
        whole = _weighted_mean(features, log_alpha).unsqueeze(1).expand_as(features)
        related = torch.cat([features, whole], dim=2)
        log_beta = _log_sigmoid(self.relation_attention(related))
        answer = self.classifier(_weighted_mean(related, log_alpha + log_beta))
        alpha = log_alpha.exp().squeeze(2)
        return ExpressionReading(answer, (Head(answer, 1.0),), region_biased_loss(alpha, margin=self.margin))


def regions(faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 6 1 s s"]:
    """Return the full face and its crops, all of the face's size."""
    side = faces.shape[-1]
    pictures = [faces]
    for left, top, share in _CROPS:
        x, y, cut = round(left * side), round(top * side), round(share * side)
        pictures.append(
            functional.interpolate(
                faces[:, :, y : y + cut, x : x + cut],
                size=(side, side),
                mode="bilinear",
                align_corners=False,
            )
        )
    return torch.stack(pictures, dim=1)


def region_biased_loss(alpha: Float[Tensor, "b 6"], *, margin: float) -> Float[Tensor, ""]:
    """Return how far the best crop's alpha falls short of the full face's (column 0) plus `margin`."""
    lead = alpha[:, 1:].amax(dim=1) - alpha[:, 0]
    return functional.relu(margin - lead.float()).mean()


def _log_sigmoid(logits: Float[Tensor, "b 6 1"]) -> Float[Tensor, "b 6 1"]:
    # Written out: torch's own is exported as a sigmoid and its logarithm, which ends where the sigmoid is 0.
    return (logits - logits.abs()) / 2 - torch.log1p(torch.exp(-logits.abs()))


def _weighted_mean(
    features: Float[Tensor, "b 6 channels"], log_weights: Float[Tensor, "b 6 1"]
) -> Float[Tensor, "b channels"]:
    # As logarithms: six weights may all be so near 0 that their sum is 0.
    return (features * log_weights.softmax(dim=1)).sum(dim=1)
