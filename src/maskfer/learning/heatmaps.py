"""Where the mask is, by covering: the occlusion-sensitivity heatmap of the mask classifier (§5.1).

S_m of a place is how far the logit of "masked" falls when an N x N patch there is zeroed; zero is
`MIDDLE_GREY`, because the network sees normalised faces. The patches are centred on the cells of a raster
with the stride's spacing that tiles the face; at the border they reach over it and are cut.

H_m = sigmoid(gain * (S_m / s - center)), with s the face's own largest sensitivity (its 90th percentile). A
sigmoid of S_m itself, as in the paper, would never fall below 1/2: on a mask S_m is positive, elsewhere about
zero. Were all parts of a mask equal evidence, S_m would fall to half its height where half of the patch lies
on it, at its edge; the middle is the stronger evidence, so the center lies lower. Without a mask there is no
height to take a part of: s is never smaller than `floor`, three quarters of the typical height on masked
faces, and H_m stays near 0.

Source: §5.1; Zeiler and Fergus (2014), §4.2, for occlusion sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from maskfer.learning.models.backbones import fold_norms, placed
from maskfer.learning.models.mask_classifier import MaskClassifier

_HEIGHT_QUANTILE = 0.9
"""The height of S_m on a face: the maximum would be one noisy cell."""
_FLOOR_SHARE = 0.75
"""Floor of the height, in units of its median over masked faces."""
_BATCH = 576
"""Covered faces per forward pass: enough to fill the cores, small enough for their caches."""

MaskLogits = Callable[[Float[Tensor, "b 1 s s"]], Float[Tensor, " b"]]
"""Normalised faces to the logit of "masked"."""


class _Span(NamedTuple):
    """Along one axis: what a patch covers (pixels), the window to compute anew (pixels, cells)."""

    patch: slice
    pixels: slice
    cells: slice
    fresh: slice
    """The cells of the window that are right: the first and the last may lack pixels beyond it."""


def patches(side: int, *, patch: int, stride: int) -> list[slice]:
    """Return the pixels that each patch covers along one axis, one patch for each cell of the raster."""
    starts = [cell * stride + (stride - patch) // 2 for cell in range(side // stride)]
    return [slice(max(0, start), min(side, start + patch)) for start in starts]


@torch.inference_mode()
def occlusion_sensitivity(
    mask_logits: MaskLogits, normalised: Float[Tensor, "n 1 s s"], *, patch: int, stride: int
) -> Float[Tensor, "n g g"]:
    """Return S_m of any classifier: the definition, one forward pass per patch and face."""
    spans = patches(normalised.shape[-1], patch=patch, stride=stride)
    clean = mask_logits(normalised)
    drops = normalised.new_zeros(len(normalised), len(spans), len(spans))
    for row, down in enumerate(spans):
        for column, across in enumerate(spans):
            covered = normalised.clone()
            covered[:, :, down, across] = 0
            drops[:, row, column] = clean - mask_logits(covered)
    return drops


class FastSensitivity:
    """S_m of a `MaskClassifier`, the same numbers as `occlusion_sensitivity`, several times as fast.

    A patch changes only the few cells of block 1 that see it: those are computed from a window and put into
    the clean face's features. The rest, whose transformer sees the whole face, runs in full.
    """

    def __init__(self, model: MaskClassifier, *, side: int, patch: int, stride: int) -> None:
        device = next(model.parameters()).device
        self.model = placed(fold_norms(model), device)
        self.spans = [
            _span(covered, side=side, stride=model.block1_stride, reads=model.block1_reads, widest=widest)
            for widest in [_widest(side, patch=patch, stride=stride, model=model)]
            for covered in patches(side, patch=patch, stride=stride)
        ]

    @torch.inference_mode()
    def __call__(self, faces: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n g g"]:
        """Return S_m of grey faces 0..255."""
        at_once = max(1, _BATCH // len(self.spans) ** 2)
        return torch.cat(
            [self._drops(faces[start : start + at_once]) for start in range(0, len(faces), at_once)]
        )

    def _drops(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b g g"]:
        model, grid = self.model, len(self.spans)
        places = [(down, across) for down in self.spans for across in self.spans]
        normalised = model.normalise(faces)
        windows = normalised.new_empty(
            len(places), len(faces), 1, _length(places[0][0].pixels), _length(places[0][1].pixels)
        )
        for window, (down, across) in zip(windows, places, strict=True):
            window.copy_(normalised[:, :, down.pixels, across.pixels])
            top, left = down.pixels.start, across.pixels.start
            window[:, :, _shifted(down.patch, -top), _shifted(across.patch, -left)] = 0
        fresh = model.block1(windows.flatten(0, 1)).unflatten(0, (len(places), len(faces)))
        clean = model.block1(normalised.contiguous(memory_format=torch.channels_last))
        features = clean.permute(0, 2, 3, 1).repeat(len(places), 1, 1, 1).permute(0, 3, 1, 2)
        by_place = features.unflatten(0, (len(places), len(faces)))
        for target, source, (down, across) in zip(by_place, fresh, places, strict=True):
            target[:, :, down.cells, across.cells] = source[:, :, down.fresh, across.fresh]
        drops = model.mask_logits(clean) - model.mask_logits(features).reshape(len(places), -1)
        maps: Tensor = drops.T.reshape(-1, grid, grid)
        return maps


def sensitivity_floor(drops: Float[Tensor, "n g g"], is_masked: Bool[Tensor, " n"]) -> float:
    """Return the smallest height that counts as a mask, from the maps of a data set's faces."""
    return float(_FLOOR_SHARE * _heights(drops[is_masked]).median())


def attention(
    drops: Float[Tensor, "n g g"], *, center: float, gain: float, floor: float
) -> Float[Tensor, "n g g"]:
    """Return H_m of sensitivities S_m: centred, scaled, and through the sigmoid."""
    heights = _heights(drops).clamp(min=floor)
    return torch.sigmoid(gain * (drops / heights.view(-1, 1, 1) - center))


def upsampled(heatmaps: Float[Tensor, "n g g"], side: int) -> Float[Tensor, "n side side"]:
    """Return heatmaps at the resolution of the face."""
    return functional.interpolate(
        heatmaps.unsqueeze(1), size=(side, side), mode="bilinear", align_corners=False
    ).squeeze(1)


def region_heatmaps(regions: Float[Tensor, "n s s"], *, cells: int) -> Float[Tensor, "n cells cells"]:
    """Return what a perfect H_m would be: the share of each cell that the mask's true region covers."""
    return functional.adaptive_avg_pool2d(regions.unsqueeze(1), cells).squeeze(1)


def region_iou(heatmaps: Float[Tensor, "n g g"], regions: Bool[Tensor, "n s s"]) -> float:
    """Return the mean over faces of the overlap of H_m > 1/2 with the true mask region."""
    found = upsampled(heatmaps, regions.shape[-1]) > 0.5
    both = (found & regions).sum(dim=(1, 2))
    either = (found | regions).sum(dim=(1, 2))
    return float((both / either.clamp(min=1)).mean())


def covered_share(heatmaps: Float[Tensor, "n g g"], side: int) -> float:
    """Return the mean share of the face that H_m > 1/2 covers: what an unmasked face should have none of."""
    return float((upsampled(heatmaps, side) > 0.5).float().mean())


def correlation(first: Float[Tensor, "n g g"], second: Float[Tensor, "n g g"]) -> float:
    """Return Pearson's correlation over all cells of all faces."""
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def _heights(drops: Float[Tensor, "n g g"]) -> Float[Tensor, " n"]:
    return drops.flatten(1).quantile(_HEIGHT_QUANTILE, dim=1)


def _changed(covered: slice, *, side: int, stride: int, reads: tuple[int, int]) -> slice:
    # Cell j reads the pixels j * stride + reads[0] .. j * stride + reads[1].
    first = max(0, -(-(covered.start - reads[1]) // stride))
    last = min(side // stride - 1, (covered.stop - 1 - reads[0]) // stride)
    return slice(first, last + 1)


def _widest(side: int, *, patch: int, stride: int, model: MaskClassifier) -> int:
    return max(
        _length(_changed(covered, side=side, stride=model.block1_stride, reads=model.block1_reads))
        for covered in patches(side, patch=patch, stride=stride)
    )


def _span(covered: slice, *, side: int, stride: int, reads: tuple[int, int], widest: int) -> _Span:
    # A cell more at both ends, wrong where pixels beyond it are missing; all windows equally wide.
    cells = side // stride
    width = min(widest + 2, cells)
    first = _changed(covered, side=side, stride=stride, reads=reads).start
    start = min(max(0, first - 1), cells - width)
    fresh = slice(1 if start > 0 else 0, width - 1 if start + width < cells else width)
    return _Span(
        patch=covered,
        pixels=slice(start * stride, (start + width) * stride),
        cells=slice(start + fresh.start, start + fresh.stop),
        fresh=fresh,
    )


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length


def _shifted(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)
