"""From pixels back to the template: a thin-plate spline on a few points, read on a coarse grid."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float32

from maskfer.masking.placement import LATTICE, Placement
from maskfer.masking.textures import S_MAX, T_MAX, T_MIN, texture_shape

_CELLS = 12
"""The warp is smooth: solved at this many places along the longer side, it is linear between them."""


def texture_maps(
    placement: Placement, *, left: int, top: int, width: int, height: int, step: int, texture_width: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Return where the pixels of a rectangle lie in the texture, as `cv2.remap` takes it.

    There are `width` x `height` pixels, each `step` pixels of the picture wide, from `left`, `top` on.
    """
    fit = placement.fit
    rows, columns = texture_shape(texture_width)
    values = np.stack(
        [
            (fit.texture_s(LATTICE[:, 0]) + S_MAX) * (columns - 1) / (2 * S_MAX),
            (LATTICE[:, 1] - T_MIN) * (rows - 1) / (T_MAX - T_MIN),
        ],
        axis=1,
    )
    # Nodes lie in the middle of square cells, with one cell to spare around the rectangle: that is how
    # cv2.resize places pixels, and unlike a matrix product it starts no threads.
    cell = max(1, -(-max(width, height) // _CELLS))
    across, down = -(-width // cell) + 2, -(-height // cell) + 2
    nodes = np.empty((down, across, 2))
    nodes[..., 0] = left - 0.5 + (np.arange(across) - 0.5) * cell * step
    nodes[..., 1] = (top - 0.5 + (np.arange(down) - 0.5) * cell * step)[:, None]
    at = fit.into_upright(nodes.reshape(-1, 2))
    coarse = _thin_plate(placement.knots, values, at).astype(np.float32).reshape(down, across, 2)
    inner = np.s_[cell : cell + height, cell : cell + width]
    size = (across * cell, down * cell)
    return cv2.resize(coarse[..., 0], size)[inner], cv2.resize(coarse[..., 1], size)[inner]


def _thin_plate(
    knots: Float[np.ndarray, "k 2"], values: Float[np.ndarray, "k 2"], at: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Interpolate `values` at `knots` with the least bending. Source: Bookstein (1989), Principal Warps."""
    k = len(knots)
    system = np.zeros((k + 3, k + 3))
    system[:k, :k] = _kernel(knots, knots)
    # Lets go of a knot rather than fold where a profile squeezes them.
    system[:k, :k].flat[:: k + 1] += 1e-4
    system[:k, k], system[:k, k + 1 :] = 1.0, knots
    system[k:, :k] = system[:k, k:].T
    right = np.zeros((k + 3, 2))
    right[:k] = values
    weights = np.linalg.solve(system, right)
    return np.asarray(_kernel(at, knots) @ weights[:k] + weights[k] + at @ weights[k + 1 :])


def _kernel(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "n k"]:
    squared = (a[:, :1] - b[:, 0]) ** 2 + (a[:, 1:] - b[:, 1]) ** 2 + 1e-9
    return np.asarray(squared * np.log(squared))
