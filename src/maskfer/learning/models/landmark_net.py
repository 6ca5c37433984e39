"""68 landmarks by deep regression (§4.2), on a face whose mask may have been painted over first.

Source: §4.2, "a deep regression network, which can be any" landmark network; after Liu et al. (2020),
GAN-IAs. Ours is the small residual extractor of the expression networks with one fully connected layer.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskfer.faces import orientation
from maskfer.labels import ORIENTATIONS, Orientation
from maskfer.learning.models.backbones import ConvNorm, Normalise, ResidualBlock, SmallResNet
from maskfer.learning.models.inpainting import InpaintingGenerator

_LANDMARKS: Final = 68
_STRIDE: Final = 16
_SHARPNESS: Final = 4.0
"""How fast an orientation becomes certain: e-folds per distance from looking ahead to the border."""


class LandmarkNet(nn.Module):
    """Grey faces 0..255 to the landmarks of iBUG-68, in sides of the crop."""

    def __init__(self, *, side: int = 96, width: int = 32) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = SmallResNet(width=width)
        channels = self.backbone.channels
        self.blocks = nn.Sequential(
            ResidualBlock(channels, 2 * channels, stride=2), ConvNorm(2 * channels, channels, kernel=1)
        )
        # Where a feature is says where the landmark is: flattened, not pooled.
        self.regression = nn.Linear(channels * (side // _STRIDE) ** 2, 2 * _LANDMARKS)
        nn.init.normal_(self.regression.weight, std=1e-3)

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 68 2"]:
        features = self.blocks(self.backbone(self.normalise(faces)))
        # In full precision: bfloat16 has eight bits for a coordinate.
        with torch.autocast(faces.device.type, enabled=False):
            points: Tensor = self.regression(features.float().flatten(1))
        return points.reshape(-1, _LANDMARKS, 2)

    @torch.no_grad()
    def start_from(self, mean_face: Float[Tensor, "68 2"]) -> None:
        """Answer about `mean_face` on any face, so that training begins with what differs from it."""
        self.regression.bias.copy_(mean_face.flatten())


class LandmarkReader(nn.Module):
    """Landmarks of faces and their heatmaps: of the inpainted faces where there is an inpainter (§4.2)."""

    def __init__(self, network: LandmarkNet, *, inpainter: InpaintingGenerator | None = None) -> None:
        super().__init__()
        self.network = network
        self.inpainter = inpainter

    def forward(
        self, faces: Float[Tensor, "b 1 s s"], heatmap: Float[Tensor, "b g g"]
    ) -> Float[Tensor, "b 68 2"]:
        if self.inpainter is not None:
            faces = self.inpainter(faces, heatmap)
        landmarks: Tensor = self.network(faces)
        return landmarks


def orientation_probabilities(landmarks: Float[Tensor, "b 68 2"], *, side: int) -> Float[Tensor, "b 5"]:
    """Return where faces look; the most probable one is `faces.orientation.orientation_of` these landmarks.

    `side` is the crop's, pixels. In the order of `labels.ORIENTATIONS`.
    """
    sideways, nod = _turns(landmarks.float() * side)
    deviation = {
        Orientation.LEFT: -sideways,
        Orientation.RIGHT: sideways,
        Orientation.UP: -nod,
        Orientation.DOWN: nod,
        Orientation.CENTER: torch.ones_like(nod),
    }
    scores = torch.stack([deviation[name] for name in ORIENTATIONS], dim=1)
    return torch.softmax(_SHARPNESS * scores, dim=1)


def _turns(points: Float[Tensor, "b 68 2"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    # faces.orientation.turn_of and its two scalings, on a batch and in what ONNX knows.
    left_eye, right_eye = points[:, 36:42].mean(dim=1), points[:, 42:48].mean(dim=1)
    across, down = (right_eye - left_eye).unbind(dim=1)
    length = torch.sqrt(across.square() + down.square()).clamp(min=1e-6)
    cosine, sine = (across / length).unsqueeze(1), (down / length).unsqueeze(1)
    # About the eyes' middle: the measures do not see where the face is.
    centred = points - ((left_eye + right_eye) / 2).unsqueeze(1)
    x = cosine * centred[:, :, 0] + sine * centred[:, :, 1]
    y = cosine * centred[:, :, 1] - sine * centred[:, :, 0]
    left, right = x[:, 0:3].mean(dim=1), x[:, 14:17].mean(dim=1)
    left_share = (x[:, 27:31].mean(dim=1) - left) / (right - left).clamp(min=1)
    eyes_to_mouth = (y[:, 48] + y[:, 54]) / 2 - (y[:, 36:42].mean(dim=1) + y[:, 42:48].mean(dim=1)) / 2
    nose_height = (y[:, 30] - (y[:, 0] + y[:, 16]) / 2) / eyes_to_mouth.clamp(min=1)
    above = nose_height - orientation.LEVEL
    nod = above / torch.where(above > 0, orientation.DOWN, orientation.UP)
    return (left_share - 0.5) / orientation.SIDEWAYS, nod
