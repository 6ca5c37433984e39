"""Training faces as a camera and a detector might have given them: moved, relit, blurred, covered.

Everything works on whole batches, on the batch's device, and draws from the generator it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn import functional

from maskfer.labels import ORIENTATIONS, Orientation
from maskfer.learning.models.backbones import MIDDLE_GREY

_MIRRORED = {Orientation.LEFT: Orientation.RIGHT, Orientation.RIGHT: Orientation.LEFT}
_MIRROR_INDEX = [ORIENTATIONS.index(_MIRRORED.get(name, name)) for name in ORIENTATIONS]
_MIRRORED_LANDMARKS = [
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # bridge of the nose
    *range(35, 30, -1),  # its underside
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
]
"""On a mirrored face the landmark of this index is where the index's own place was."""


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far a training face is moved and relit."""

    shift: float = 0.05
    """Largest shift along each axis, in sides of the crop; the detector's boxes wander by about that."""
    scale: float = 0.09
    """Largest change of size, as a natural logarithm."""
    rotation_deg: float = 8.0
    mirror: float = 0.5
    """Share of the faces that are mirrored."""
    contrast: float = 0.25
    """Largest change of contrast, as a natural logarithm."""
    brightness: float = 20.0
    """Largest change of brightness, grey levels."""
    gamma: float = 0.2
    """Largest change of the exponent of the tone curve, as a natural logarithm."""
    blur: float = 0.2
    """Share of the faces that are blurred, by a random amount."""
    noise: float = 5.0
    """Largest standard deviation of sensor noise, grey levels."""
    erase: float = 0.2
    """Share of the faces of which a rectangle is covered."""


DEFAULT_JITTER = Jitter()
FAR_JITTER = Jitter(
    shift=0.1,
    scale=0.2,
    rotation_deg=18.0,
    contrast=0.4,
    brightness=35.0,
    gamma=0.35,
    blur=0.3,
    noise=8.0,
)
"""As faces differ between one source of photographs and another."""


@dataclass(frozen=True, slots=True)
class Warps:
    """One affine map and one mirroring for each face of a batch."""

    theta: Float[Tensor, "b 2 3"]
    """Output to input coordinates in [-1, 1], as `torch.nn.functional.affine_grid` takes them."""
    mirrored: Bool[Tensor, " b"]

    def where(self, chosen: Bool[Tensor, " b"], others: Warps) -> Warps:
        """These maps where `chosen`, the others' elsewhere."""
        return Warps(
            torch.where(chosen.view(-1, 1, 1), self.theta, others.theta),
            torch.where(chosen, self.mirrored, others.mirrored),
        )

    def followed_by(self, twins: int) -> Warps:
        """The same maps for a batch followed by the twins of its first faces."""
        return Warps(
            torch.cat([self.theta, self.theta[:twins]]), torch.cat([self.mirrored, self.mirrored[:twins]])
        )


def random_warps(count: int, *, jitter: Jitter, generator: Generator) -> Warps:
    """Draw rotations, sizes, shifts and mirrorings."""
    angle = _symmetric(count, math.radians(jitter.rotation_deg), generator)
    scale = torch.exp(_symmetric(count, jitter.scale, generator))
    # affine_grid's coordinates span two units per side.
    across, down = (_symmetric(count, 2 * jitter.shift, generator) for _ in range(2))
    mirrored = torch.rand(count, generator=generator, device=generator.device) < jitter.mirror
    sign = torch.where(mirrored, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack(
        [torch.stack([sign * cos, -sin, across], dim=1), torch.stack([sign * sin, cos, down], dim=1)], dim=1
    )
    return Warps(theta, mirrored)


def warp(images: Float[Tensor, "b c s s"], warps: Warps) -> Float[Tensor, "b c s s"]:
    """Move images (or maps that belong to them); what comes in from outside repeats the border."""
    grid = functional.affine_grid(warps.theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mirrored_orientations(labels: Int64[Tensor, " b"], mirrored: Bool[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """Swap left and right where the face was mirrored; -1 (unknown) stays."""
    index = torch.tensor(_MIRROR_INDEX, device=labels.device)
    return torch.where(mirrored & (labels >= 0), index[labels.clamp(min=0)], labels)


def warp_landmarks(landmarks: Float[Tensor, "b 68 2"], warps: Warps) -> Float[Tensor, "b 68 2"]:
    """Move landmarks, in sides of the crop, with their faces; a mirrored face's are numbered anew."""
    index = torch.tensor(_MIRRORED_LANDMARKS, device=landmarks.device)
    numbered = torch.where(warps.mirrored.view(-1, 1, 1), landmarks[:, index], landmarks)
    (a, b, across), (c, d, down) = (row.unsqueeze(2).unbind(dim=1) for row in warps.theta.unbind(dim=1))
    # theta says where a pixel of the output comes from, so a point of the input goes the other way. The
    # inverse is written out: torch's own looks at its result, for which an accelerator would stop.
    x, y = (2 * numbered - 1).unbind(dim=2)
    x, y, area = x - across, y - down, a * d - b * c
    moved = torch.stack([(d * x - b * y) / area, (a * y - c * x) / area], dim=2)
    return (moved + 1) / 2


def relight_alike(
    faces: Float[Tensor, "b 1 s s"],
    twins: Float[Tensor, "b 1 s s"],
    *,
    jitter: Jitter,
    generator: Generator,
) -> tuple[Float[Tensor, "b 1 s s"], Float[Tensor, "b 1 s s"]]:
    """Change faces and their twins by the same draws: pixels that were equal stay equal."""
    same = Generator(generator.device).set_state(generator.get_state())
    return (
        relight(faces, jitter=jitter, generator=generator),
        relight(twins, jitter=jitter, generator=same),
    )


def relight(
    faces: Float[Tensor, "b 1 s s"], *, jitter: Jitter, generator: Generator
) -> Float[Tensor, "b 1 s s"]:
    """Change contrast, brightness, tone curve, sharpness and noise of grey faces 0..255."""
    count = len(faces)

    def draw(reach: float) -> Float[Tensor, "b 1 1 1"]:
        return _symmetric(count, reach, generator).view(-1, 1, 1, 1)

    faces = faces.clamp(0, 255).div(255).pow(torch.exp(draw(jitter.gamma))).mul(255)
    faces = (faces - MIDDLE_GREY) * torch.exp(draw(jitter.contrast)) + MIDDLE_GREY + draw(jitter.brightness)
    amount = torch.rand(count, generator=generator, device=generator.device)
    chosen = torch.rand(count, generator=generator, device=generator.device) < jitter.blur
    if faces.is_cuda:
        # Which are chosen is not asked: the accelerator would stop for the answer.
        faces = torch.lerp(faces, _blurred(faces), (amount * chosen).view(-1, 1, 1, 1))
    else:
        # Only the chosen ones: on a processor the blur costs as much as the backbone's first blocks.
        faces[chosen] = torch.lerp(faces[chosen], _blurred(faces[chosen]), amount[chosen].view(-1, 1, 1, 1))
    deviation = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) * jitter.noise
    noise = torch.randn(faces.shape, generator=generator, device=generator.device)
    return (faces + noise * deviation).clamp(0, 255)


def erase(
    faces: Float[Tensor, "b 1 s s"], *, jitter: Jitter, generator: Generator
) -> tuple[Float[Tensor, "b 1 s s"], Bool[Tensor, "b 1 s s"]]:
    """Cover a rectangle of some faces; return the faces and what was covered.

    Half of the rectangles have the grey that the occlusion heatmap paints, the others any grey: a plain patch
    then is evidence neither for a mask nor against one.
    """
    count, side = len(faces), faces.shape[-1]
    device = generator.device
    covered = random_rectangles(count, side, smallest=0.1, largest=0.4, generator=generator)
    covered &= (torch.rand(count, generator=generator, device=device) < jitter.erase).view(-1, 1, 1, 1)
    level = torch.rand((count, 1, 1, 1), generator=generator, device=device) * 255
    plain = torch.rand((count, 1, 1, 1), generator=generator, device=device) < 0.5
    return torch.where(covered, torch.where(plain, MIDDLE_GREY, level), faces), covered


def random_rectangles(
    count: int, side: int, *, smallest: float, largest: float, generator: Generator
) -> Bool[Tensor, "b 1 s s"]:
    """Draw one rectangle per face, its sides in units of the crop's, anywhere inside the crop."""
    draws = torch.rand((count, 4, 1), generator=generator, device=generator.device)
    sizes = (smallest + (largest - smallest) * draws[:, :2]) * side
    starts = draws[:, 2:] * (side - sizes)
    pixels = torch.arange(side, device=generator.device)
    inside = (pixels >= starts) & (pixels < starts + sizes)
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).unsqueeze(1)


def random_patchwork(count: int, side: int, *, cells: int, generator: Generator) -> Bool[Tensor, "b 1 s s"]:
    """Draw squares of a raster, each chosen by chance; the chance is every face's own, from none to all.

    The raster has `cells` squares along the crop's side and lies somewhere else on every face.
    """
    device = generator.device
    chances = torch.rand((count, 1, 1), generator=generator, device=device)
    chosen = torch.rand((count, cells + 1, cells + 1), generator=generator, device=device) < chances
    offsets = torch.rand((count, 2, 1), generator=generator, device=device)
    pixels = torch.arange(side, device=device) * cells / side
    rows, columns = (pixels + offsets).long().unbind(dim=1)
    each = torch.arange(count, device=device).view(-1, 1, 1)
    return chosen[each, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)


def _symmetric(count: int, reach: float, generator: Generator) -> Float[Tensor, " b"]:
    return (torch.rand(count, generator=generator, device=generator.device) * 2 - 1) * reach


def _blurred(faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
    # Binomial, standard deviation 1.4 pixels; separable, so two cheap passes.
    kernel = torch.tensor([1.0, 8.0, 28.0, 56.0, 70.0, 56.0, 28.0, 8.0, 1.0], device=faces.device) / 256
    padded = functional.pad(faces, (4, 4, 4, 4), mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, 9))
    return functional.conv2d(across, kernel.view(1, 1, 9, 1))
