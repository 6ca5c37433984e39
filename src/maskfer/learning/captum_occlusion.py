"""The occlusion map as captum makes it: somebody else's program for the definition of ours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskfer.errors import InputError
from maskfer.learning.heatmaps import MaskLogits


def occlusion_map(
    mask_logits: MaskLogits,
    normalised: Float[Tensor, "n 1 s s"],
    *,
    patch: int,
    stride: int,
    per_pass: int = 72,
) -> Float[Tensor, "n s s"]:
    """Return captum's map: at each pixel the mean fall of the logit over the patches that cover it.

    The patches are those of `heatmaps.patches`; `per_pass` of them go through the network at a time. Raises
    `InputError` where captum is not installed, or where the patches leave gaps, which captum cannot do.

    Source: Kokhlikyan et al. (2020), Captum, `attr.Occlusion`.
    """
    if patch < stride:
        raise InputError(f"heatmap.patch {patch}: captum needs at least heatmap.stride, which is {stride}")
    try:
        from captum.attr import Occlusion
    except ImportError as error:
        raise InputError(
            "captum, the program to compare with, is not installed; install maskfer's extra `bench` "
            "(`pip install 'maskfer[bench]'`, or `make setup` in a checkout)"
        ) from error
    # Captum's first patch starts at the edge, ours half an overlap before it: grey is put around the face
    # for captum to slide over, and taken off again before the network sees it.
    before = (patch - stride + 1) // 2
    after = patch - stride - before
    side = normalised.shape[-1]

    def uncovered(padded: Float[Tensor, "b 1 s2 s2"]) -> Float[Tensor, " b"]:
        inside = slice(before, before + side)
        return mask_logits(padded[:, :, inside, inside])

    with torch.inference_mode():
        found: Tensor = Occlusion(uncovered).attribute(
            functional.pad(normalised, (before, after, before, after)),
            sliding_window_shapes=(1, patch, patch),
            strides=(1, stride, stride),
            baselines=0,
            perturbations_per_eval=per_pass,
        )
    return found[:, 0, before : before + side, before : before + side]
