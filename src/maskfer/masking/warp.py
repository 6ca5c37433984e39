"""From pixels back to the template: a thin-plate spline on a few points, read on a coarse grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32

from maskfer.masking.fit import Fit
from maskfer.masking.textures import S_MAX, T_MAX, T_MIN, texture_shape

_LATTICE = np.stack(
    np.meshgrid([-1.05, -0.5, 0.0, 0.5, 1.05], [-0.06, 0.2, 0.42, 0.72, 1.06]), axis=-1
).reshape(-1, 2)
"""Chart points where the warp is exact."""
_NODES = 13
"""The warp is smooth: evaluated at this many nodes a side, it is linear between them."""


def texture_maps(
    fit: Fit, *, left: int, top: int, width: int, height: int, texture_width: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Return where each pixel of a rectangle of the picture lies in the texture, as `cv2.remap` takes it."""
    knots = fit.to_upright(_LATTICE)
    rows, columns = texture_shape(texture_width)
    values = np.stack(
        [
            (fit.texture_s(_LATTICE[:, 0]) + S_MAX) * (columns - 1) / (2 * S_MAX),
            (_LATTICE[:, 1] - T_MIN) * (rows - 1) / (T_MAX - T_MIN),
        ],
        axis=1,
    )
    x, y = np.linspace(0, width - 1, _NODES), np.linspace(0, height - 1, _NODES)
    nodes = np.stack(np.meshgrid(x + left, y + top), axis=-1).reshape(-1, 2)
    coarse = _thin_plate(knots, values, fit.into_upright(nodes)).reshape(_NODES, _NODES, 2).astype(np.float32)
    down, across = _linear(height), _linear(width).T
    return down @ coarse[..., 0] @ across, down @ coarse[..., 1] @ across


def _thin_plate(
    knots: Float[np.ndarray, "k 2"], values: Float[np.ndarray, "k 2"], at: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Interpolate `values` at `knots` with the least bending. Source: Bookstein (1989), Principal Warps."""
    k = len(knots)
    system = np.zeros((k + 3, k + 3))
    system[:k, :k] = _kernel(knots, knots)
    system[:k, :k] += 1e-4 * np.eye(k)  # lets go of a knot rather than fold where a profile squeezes them
    system[:k, k], system[:k, k + 1 :] = 1.0, knots
    system[k:, :k] = system[:k, k:].T
    right = np.zeros((k + 3, 2))
    right[:k] = values
    weights = np.linalg.solve(system, right)
    return np.asarray(_kernel(at, knots) @ weights[:k] + weights[k] + at @ weights[k + 1 :])


def _kernel(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "n k"]:
    squared = (a[:, :1] - b[:, 0]) ** 2 + (a[:, 1:] - b[:, 1]) ** 2 + 1e-9
    return np.asarray(squared * np.log(squared))


@lru_cache(maxsize=512)
def _linear(length: int) -> Float32[np.ndarray, "length nodes"]:
    """Weights that interpolate `_NODES` values, first and last at the ends, at every pixel."""
    position = np.linspace(0, _NODES - 1, length)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(_NODES))).astype(np.float32)
