"""Any expression network, on faces that were turned, moved and scaled to lie alike. Not in the paper.

A crop follows the detector's box, which wanders and does not turn with the head; a mask then leaves a network
little by which it could tell a raised brow from a tilted face. Here landmarks say how the face lies, and the
similarity that takes five points nearest to their usual places is applied before the expression is read.
The aligned landmarks are read as well, by two small layers: they say how brows and eyes lie, and where the
landmark network believes lips to be under a mask.

Source: face recognition aligns by a similarity of these five points (Liu et al., 2017, SphereFace, §4.1). The
one with the least squares is Umeyama's (1991), in the plane a quotient of complex numbers.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from maskfer.learning.augment import DEFAULT_JITTER, Jitter, Warps, random_warps, warp_landmarks
from maskfer.learning.models.attention import affine_grid
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

_PLACES: Final = ((0.323, 0.385), (0.677, 0.385), (0.5, 0.58), (0.343, 0.771), (0.657, 0.771))
"""Eyes, tip of the nose and corners of the mouth in sides of the crop: their means over the training faces of
`lfw-expressions`, made symmetric."""
SPREAD: Final = 1.15
"""Aligned, they are so many times as far from their middle: less of what is around a face is shown."""
CLOSE_SPREAD: Final = 1.4
"""From the brows to the chin: for a network that was trained on faces larger than our crops have them."""
_AGAIN: Final = 0.35
_MOVEMENT: Final = Jitter(
    shift=_AGAIN * DEFAULT_JITTER.shift,
    scale=_AGAIN * DEFAULT_JITTER.scale,
    rotation_deg=_AGAIN * DEFAULT_JITTER.rotation_deg,
    mirror=0.0,
)
"""How far aligned faces are moved anew while training: what had moved them before is aligned away."""
_TIP, _CORNERS = 30, (48, 54)
_COORDINATES: Final = 2 * 68
_SMALLEST: Final = 0.2
"""Of a face's size to the usual one: below it the landmarks are no face, and nothing is turned."""


class AlignedNet(ExpressionNet):
    """`network` on faces, heatmaps and landmarks brought to a common place, and a look at the landmarks.

    What the landmarks say is added to the logits of the answer; other heads judge what `network` alone sees.
    `network` gets faces of `side` pixels, of the crop's side without it.
    """

    needs_landmarks: ClassVar[bool] = True

    def __init__(
        self,
        network: ExpressionNet,
        *,
        classes: int,
        dropout: float = 0.2,
        side: int | None = None,
        spread: float = SPREAD,
    ) -> None:
        super().__init__()
        self.network = network
        self.side = side
        self.shape = LandmarkShape(classes=classes, dropout=dropout)
        places = torch.tensor(_PLACES)
        middle = places.mean(dim=0)
        self.register_buffer("places", middle + spread * (places - middle), persistent=False)
        self.places: Tensor

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        assert context.landmarks is not None
        theta = similarity(five_points(context.landmarks.float()), self.places)
        if self.training:
            theta = _after(theta, random_warps(len(theta), jitter=_MOVEMENT, generator=_dice(theta)).theta)
        # Not `len(theta)`, which the exporter takes for a number that never changes.
        still = torch.zeros(theta.shape[0], dtype=torch.bool, device=theta.device)
        landmarks = warp_landmarks(context.landmarks.float(), Warps(theta, still))
        aligned = FaceContext(_moved(context.heatmap.unsqueeze(1), theta).squeeze(1), landmarks)
        reading: ExpressionReading = self.network(_moved(faces, theta, side=self.side), aligned)
        answer = reading.answer + self.shape(landmarks)
        heads = [head for head in reading.heads if head.logits is not reading.answer]
        # An answer that was only made from heads has none, and nothing would train what the landmarks say.
        weight = sum(head.weight for head in reading.heads if head.logits is reading.answer) or 1.0
        return ExpressionReading(answer, (Head(answer, weight), *heads), reading.penalty)


class LandmarkShape(nn.Module):
    """Aligned landmarks to class logits, by two fully connected layers."""

    def __init__(self, *, classes: int, dropout: float, hidden: int = 64) -> None:
        super().__init__()
        # Normalised one by one: of aligned faces some coordinates hardly differ, and a little says much.
        self.layers = nn.Sequential(
            nn.BatchNorm2d(_COORDINATES),
            nn.Flatten(),
            nn.Linear(_COORDINATES, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, landmarks: Float[Tensor, "b 68 2"]) -> Float[Tensor, "b classes"]:
        # A landmark far outside the crop is a mistake.
        logits: Tensor = self.layers(landmarks.clamp(-1, 2).reshape(-1, _COORDINATES, 1, 1))
        return logits


def five_points(landmarks: Float[Tensor, "b 68 2"]) -> Float[Tensor, "b 5 2"]:
    """Return eyes, tip of the nose and corners of the mouth: `faces.shape.five_of`, on a batch."""
    eyes = [landmarks[:, 36:42].mean(dim=1), landmarks[:, 42:48].mean(dim=1)]
    return torch.stack([*eyes, landmarks[:, _TIP], *(landmarks[:, corner] for corner in _CORNERS)], dim=1)


def similarity(points: Float[Tensor, "b n 2"], places: Float[Tensor, "n 2"]) -> Float[Tensor, "b 2 3"]:
    """Return the turn, size and shift that take `places` nearest to `points`, both in sides of the crop.

    As `affine_grid` takes them, from a pixel of the aligned face to that of the face as it is.
    """
    # A landmark far outside the crop is a mistake, and could be so far that its square is no number.
    points, places = 2 * points.clamp(-1, 2) - 1, 2 * places - 1
    middle, centre = points.mean(dim=1), places.mean(dim=0)
    x, y = (points - middle.unsqueeze(1)).unbind(dim=2)
    u, v = (places - centre).unbind(dim=1)
    spread = (u.square() + v.square()).sum()
    cos, sin = (x * u + y * v).sum(dim=1) / spread, (y * u - x * v).sum(dim=1) / spread
    is_face = cos.square() + sin.square() >= _SMALLEST**2
    cos, sin = torch.where(is_face, cos, _SMALLEST), torch.where(is_face, sin, 0)
    across = middle[:, 0] - (cos * centre[0] - sin * centre[1])
    down = middle[:, 1] - (sin * centre[0] + cos * centre[1])
    return torch.stack([torch.stack([cos, -sin, across], dim=1), torch.stack([sin, cos, down], dim=1)], dim=1)


def _after(theta: Float[Tensor, "b 2 3"], first: Float[Tensor, "b 2 3"]) -> Float[Tensor, "b 2 3"]:
    """Return the map that does `first` and then `theta`."""
    # Not a product of matrices, which autocast would make in bfloat16.
    linear = (theta[:, :, :2].unsqueeze(3) * first.unsqueeze(1)).sum(dim=2)
    return linear + functional.pad(theta[:, :, 2:], (2, 0))


def _dice(beside: Tensor) -> Generator:
    # The global generator, which dropout knows as well: whoever trains forks and seeds it.
    if beside.is_cuda:
        return torch.cuda.default_generators[beside.device.index]
    return torch.default_generator


def _moved(
    maps: Float[Tensor, "b c h h"], theta: Float[Tensor, "b 2 3"], *, side: int | None = None
) -> Float[Tensor, "b c s s"]:
    # Held to the outermost pixels' centres, a grid never needs the border that it would be padded with; asked
    # for that border, ONNX Runtime takes twice the time. In full precision: bfloat16 has eight bits for a
    # coordinate.
    inside = 1 - 1 / maps.shape[-1]
    height, width = maps.shape[-2:] if side is None else (side, side)
    grid = affine_grid(theta, height, width).clamp(-inside, inside)
    return functional.grid_sample(maps.float(), grid, align_corners=False)
