"""MobileNet, one of the two networks that the paper judges masked faces with (§3, [16]).

Source: Sandler et al. (2018). Deviations: [16] is Howard et al. (2017), the first version; this is the
second, the one that torchvision publishes weights of. A grey face of 96 pixels in; dropout as in the common
protocol.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones import MobileNetV2, Normalise
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head


class MobileNet(ExpressionNet):
    """Logits of the whole face; looks at no context. `width` scales the channels of all layers."""

    def __init__(self, *, classes: int, dropout: float = 0.2, width: float = 1.0) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = MobileNetV2(width=width)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.backbone.channels, classes))

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        answer = self.classifier(self.backbone(self.normalise(faces)).mean(dim=(2, 3)))
        return ExpressionReading(answer, (Head(answer, 1.0),))
