"""VGG19, one of the two networks that the paper judges masked faces with (§3, [17]).

Source: Simonyan and Zisserman (2015), table 1, column E. Deviations: batch normalisation, without which
it does not learn here (`backbones/vgg.py`); a grey face of 96 pixels in; its last 3 x 3 maps are averaged
into one vector and read by one layer, because the published three layers (120 million parameters) are
made for ImageNet's thousand classes; dropout as in the common protocol.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones import Normalise, vgg19
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head


class VGG19Net(ExpressionNet):
    """Logits of the whole face; looks at no context. `width` scales the channels of all layers."""

    def __init__(self, *, classes: int, dropout: float = 0.2, width: float = 1.0) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = vgg19(width=width)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.backbone.channels, classes))

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        answer = self.classifier(self.backbone(self.normalise(faces)).mean(dim=(2, 3)))
        return ExpressionReading(answer, (Head(answer, 1.0),))
