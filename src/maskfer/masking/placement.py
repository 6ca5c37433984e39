"""Where the edges of a worn mask, its loops and its straps run in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from maskfer.labels import Orientation
from maskfer.masking.fit import Chart, Fit, Point, fit_mask
from maskfer.masking.templates import Template

Path = Float[np.ndarray, "n 2"]

LATTICE: Final = np.stack(
    np.meshgrid([-1.05, -0.5, 0.0, 0.5, 1.05], [-0.06, 0.2, 0.42, 0.72, 1.06]), axis=-1
).reshape(-1, 2)
"""Chart points that tie the template's picture to the face."""

_LOOP_REACH: Final = ((0.0, -0.04), (0.0, 0.16))
_STRAP_REACH: Final = ((0.02, -0.36), (-0.08, 0.5))
"""Where upper and lower fastening leave the face, from the root of the ear, in units of the nose-jaw line."""
_STEPS: Final = np.linspace(0, 1, 9)[:, None]


@dataclass(frozen=True, slots=True)
class Placement:
    """One mask on one face, in the picture's pixels where nothing else is said."""

    fit: Fit
    outline: Path
    """The covering's edge, closed, from the bridge of the nose."""
    straps: tuple[Path, ...]
    """Ear loops or head straps that are in sight."""
    strap_px: float
    """Their width."""
    knots: Float[np.ndarray, "25 2"]
    """`LATTICE` in the upright frame."""

    @property
    def clockwise_outline(self) -> Path:
        """The outline as it turns on the screen: a mirrored mask runs the other way round."""
        return self.outline[::-1] if self.fit.is_mirrored else self.outline

    @property
    def offset(self) -> Point:
        """(o_x, o_y): from the nose to the mask's left-top point (§3)."""
        return np.asarray(self.outline.min(axis=0) - self.fit.nose)


def place_mask(
    landmarks: Float32[np.ndarray, "68 2"],
    orientation: Orientation,
    *,
    template: Template,
    rng: np.random.Generator,
) -> Placement:
    """Put a template on a face, as high, as straight and as tight as `rng` wears it."""
    fit = fit_mask(
        landmarks,
        orientation,
        rise=float(rng.uniform(-1.2, 0.4)),
        slant=float(rng.uniform(0.0, 0.22)),
        depth=template.depth,
    )
    outline = _worn(template.outline(), rng)
    sides = () if template.fastening == "none" else (1.0,) if fit.is_side else (1.0, -1.0)
    anchors = np.array([[side * s, t] for side in sides for s, t in template.anchors]).reshape(-1, 2)
    upright = fit.to_upright(np.vstack([outline, anchors, LATTICE]))
    first, last = len(outline), len(outline) + len(anchors)
    edge, starts, knots = upright[:first], upright[first:last], upright[last:]
    is_loop = template.fastening == "loops"
    slack = rng.uniform(-0.03, 0.03, 2)
    straps = []
    for index, start in enumerate(starts):
        side, lower = sides[index // 2], index % 2
        dx, dy = (_LOOP_REACH if is_loop else _STRAP_REACH)[lower]
        end = fit.ear(near=side > 0) + np.array([side * dx, dy + slack[lower]])
        middle = 0.5 * (start + end) + np.array([0.0, 0.02 if is_loop else 0.0])
        straps.append((1 - _STEPS) ** 2 * start + 2 * _STEPS * (1 - _STEPS) * middle + _STEPS**2 * end)
    width = rng.uniform(0.01, 0.021) if is_loop else rng.uniform(0.013, 0.027)
    return Placement(
        fit=fit,
        outline=fit.from_upright(edge),
        straps=tuple(fit.from_upright(strap) for strap in straps),
        strap_px=max(0.9, float(width) * fit.height_px),
        knots=knots,
    )


def _worn(outline: Chart, rng: np.random.Generator) -> Chart:
    """Nobody wears a mask quite as it was cut: a little wider, lower, askew."""
    wide, askew, low = rng.normal(1.0, 0.025), rng.normal(0, 0.012), rng.normal(0, 0.015)
    t = outline[:, 1] + askew * outline[:, 0] + low * np.minimum(np.maximum(outline[:, 1], 0), 1)
    return np.stack([outline[:, 0] * wide, t], axis=1)
