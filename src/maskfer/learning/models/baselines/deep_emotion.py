"""Deep-Emotion, whose attention network both approaches of the paper borrow ([19]).

Source: Minaee and Abdolrashidi (2019), §III: a spatial transformer in front of four convolutions,
pooling after every second one, dropout and two fully connected layers, on a grey face of 48 x 48. Deviations:
the 96 pixels of the common crop are averaged two by two; the affine map stays within the reach that
`SpatialTransformer` gives it; dropout and weight decay as in the common protocol, in place of the paper's
penalty on the weights.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.attention import SpatialTransformer
from maskfer.learning.models.backbones import Normalise
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

_SIDE = 48


class DeepEmotionNet(ExpressionNet):
    """Logits of the whole face; looks at no context. `width` is the channels of each convolution."""

    def __init__(self, *, classes: int, dropout: float = 0.2, width: int = 10) -> None:
        super().__init__()
        self.normalise = Normalise()
        # Two convolutions, each pooled, and a layer before the one that gives the affine map.
        self.transformer = SpatialTransformer(
            1,
            reader=nn.Sequential(
                nn.Conv2d(1, 8, 7),
                nn.MaxPool2d(2),
                nn.ReLU(inplace=True),
                nn.Conv2d(8, 10, 5),
                nn.MaxPool2d(2),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(10 * 8 * 8, 32),
                nn.ReLU(inplace=True),
            ),
            read=32,
        )
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(width * 9 * 9, 50),
            nn.ReLU(inplace=True),
            nn.Linear(50, classes),
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        small = functional.interpolate(
            self.normalise(faces), size=(_SIDE, _SIDE), mode="bilinear", align_corners=False
        )
        answer = self.classifier(self.features(self.transformer(small)))
        return ExpressionReading(answer, (Head(answer, 1.0),))
