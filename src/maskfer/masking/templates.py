"""What is worn: the style of a mask, and each type's shape as an outline in chart coordinates (see `fit`).

Source: Yang et al. (2021), §3, uses one white mask in a front and a side view; §7 leaves "colors of masks"
for later. Here the two views of a type come from one template: the side view shows one ear and the near half.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Final, Literal, Self, TypeVar, get_args

import numpy as np
from jaxtyping import Float

from maskfer.config import MaskingParams

MaskType = Literal["surgical", "kn95", "n95", "cloth", "duckbill"]
MASK_TYPES: Final[tuple[MaskType, ...]] = get_args(MaskType)
Pattern = Literal["stripes", "checks", "dots", "floral", "camouflage", "marble", "motif"]
PATTERNS: Final[tuple[Pattern, ...]] = get_args(Pattern)
Color = Float[np.ndarray, " 3"]
"""Blue, green, red, 0 to 255."""
Fastening = Literal["loops", "straps", "none"]

_T = TypeVar("_T")
_COLORS: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "surgical": (
        *(("#a9d4ea", 0.2), ("#8fc1de", 0.1), ("#e9ebed", 0.3), ("#b5dcd2", 0.1), ("#16171a", 0.18)),
        *(("#e8b9c6", 0.05), ("#8d949b", 0.07)),
    ),
    "kn95": (("#e9eae9", 0.55), ("#17181b", 0.25), ("#9aa3ab", 0.08), ("#dfc9b5", 0.06), ("#a8c3da", 0.06)),
    "n95": (("#e6e6e1", 0.65), ("#e7d9b0", 0.1), ("#1d1e21", 0.1), ("#a9bccb", 0.15)),
    "cloth": (
        *(("#141518", 0.3), ("#3d4248", 0.2), ("#2a3a5e", 0.12), ("#8c1d26", 0.08), ("#7d8288", 0.12)),
        *(("#e9e6e0", 0.12), ("#4f6b57", 0.06)),
    ),
    "duckbill": (("#e8e9e9", 0.6), ("#b3d3e6", 0.2), ("#bfe0cf", 0.1), ("#1a1b1e", 0.1)),
}
"""What people wear: a colour and its share. From counting real photographs by eye, not from a survey."""


def pick(choices: Sequence[tuple[_T, float]], rng: np.random.Generator) -> _T:
    """Draw one of some things with these shares; the shares add up to 1."""
    left = rng.random()
    for choice, share in choices:
        left -= share
        if left < 0:
            return choice
    return choices[-1][0]


@dataclass(frozen=True, slots=True)
class MaskStyle:
    """The look of one mask. Raises `ValueError` for an unknown type or pattern, or a colour not #rrggbb."""

    type: MaskType
    color: str
    """#rrggbb."""
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        if self.type not in MASK_TYPES:
            raise ValueError(f"mask type {self.type!r} is not one of {', '.join(MASK_TYPES)}")
        if self.pattern is not None and self.pattern not in PATTERNS:
            raise ValueError(f"mask pattern {self.pattern!r} is not one of {', '.join(PATTERNS)}")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ValueError(f"mask colour {self.color!r} is not of the form #rrggbb, e.g. #a9d4ea")

    @property
    def bgr(self) -> Color:
        """The colour as OpenCV orders it, 0 to 255."""
        return np.array([int(self.color[k : k + 2], 16) for k in (5, 3, 1)], dtype=np.float64)

    @classmethod
    def random(
        cls, params: MaskingParams, rng: np.random.Generator, *, mask_type: MaskType | None = None
    ) -> Self:
        """Draw a type (unless it is given), its colour and perhaps a pattern, as `params` says."""
        if mask_type is None:
            mask_type = params.types[int(rng.integers(len(params.types)))]
        if rng.random() < params.any_color:
            hue, saturation, value = rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.95)
            red, green, blue = colorsys.hsv_to_rgb(float(hue), float(saturation), float(value))
            bgr = np.array([blue, green, red]) * 255
        else:
            color = pick(_COLORS[mask_type], rng)
            bgr = cls(mask_type, color).bgr + rng.normal(0, 5, 3) + rng.normal(0, 6)
        is_patterned = mask_type == "cloth" and rng.random() < params.patterned
        pattern = PATTERNS[int(rng.integers(len(PATTERNS)))] if is_patterned else None
        blue, green, red = np.clip(np.rint(bgr), 0, 255).astype(int)
        return cls(mask_type, f"#{red:02x}{green:02x}{blue:02x}", pattern)


@dataclass(frozen=True, slots=True)
class Template:
    """One cut of a mask type. The outline is the right half, from the nose down; the left half mirrors it."""

    name: str
    half: tuple[tuple[float, float, bool], ...]
    """s, t, and whether the outline has a corner here."""
    depth: float
    """How far it stands off the face, in units of the nose-jaw line."""
    fastening: Fastening
    anchors: tuple[tuple[float, float], tuple[float, float]]
    """Where the upper and the lower loop or strap leave the mask, s (of the near half) and t."""
    pleats: tuple[float, ...] = ()
    """t of each horizontal fold."""
    creases: tuple[float, ...] = ()
    """t on the centre line of each seam that runs to the mask's corner."""
    ridge: float = 0.0
    """Height of the vertical fold or seam in the middle."""
    cup: float = 0.0
    """How strongly it bulges."""
    valve: tuple[float, float, float] | None = None
    """s, t and radius of the exhalation valve."""
    crumple: float = 0.3
    """How easily it creases, 0 for a moulded shell."""
    has_wire: bool = True
    """A wire over the bridge of the nose shows."""
    stitched: bool = False
    """The hem shows stitches instead of welds."""

    @property
    def has_trim(self) -> bool:
        """Whether a second material shows: a valve, a nose clip of metal."""
        return self.valve is not None or self.is_shell

    @property
    def is_shell(self) -> bool:
        """Whether it is moulded and keeps its shape."""
        return self.cup > 1.2

    def outline(self) -> Float[np.ndarray, "n 2"]:
        """Return the closed outline in chart coordinates, clockwise from the bridge of the nose."""
        return _outline(self.half)


_SURGICAL = (
    (0.0, -0.02, False),
    (0.16, -0.015, False),
    (0.45, 0.01, False),
    (0.95, 0.0, True),
    (0.92, 0.3, False),
    (0.91, 0.6, False),
    (0.93, 0.98, True),
    (0.5, 1.05, False),
    (0.0, 1.05, False),
)
_FOLDED = (
    (0.0, -0.05, True),
    (0.2, -0.01, False),
    (0.6, 0.03, False),
    (1.0, 0.12, True),
    (1.005, 0.36, True),
    (0.92, 0.72, False),
    (0.55, 1.04, False),
    (0.0, 1.08, False),
)
_CUP = (
    (0.0, -0.04, False),
    (0.2, 0.0, False),
    (0.5, 0.09, False),
    (0.75, 0.27, False),
    (0.85, 0.5, False),
    (0.83, 0.75, False),
    (0.6, 0.99, False),
    (0.0, 1.07, False),
)
_CLOTH = (
    (0.0, -0.04, False),
    (0.2, 0.0, False),
    (0.55, 0.05, False),
    (0.99, 0.07, True),
    (0.975, 0.25, False),
    (0.985, 0.46, True),
    (0.88, 0.8, False),
    (0.5, 1.03, False),
    (0.0, 1.07, False),
)
_STRETCH = (
    (0.0, -0.03, False),
    (0.22, 0.02, False),
    (0.6, 0.1, False),
    (1.0, 0.0, False),
    (1.12, -0.04, True),
    (1.12, 0.2, True),
    (1.0, 0.34, False),
    (0.92, 0.75, False),
    (0.55, 1.02, False),
    (0.0, 1.06, False),
)
_DUCKBILL = (
    (0.0, -0.04, False),
    (0.22, 0.01, False),
    (0.62, 0.15, False),
    (0.97, 0.33, True),
    (0.975, 0.47, True),
    (0.75, 0.84, False),
    (0.42, 1.03, False),
    (0.0, 1.06, False),
)
_SQUARE_ENDS = ((0.92, 0.03), (0.89, 0.9))
_POINTED_ENDS = ((0.98, 0.16), (0.98, 0.34))


_PLEATED = Template(
    "three_pleats", _SURGICAL, 0.02, "loops", _SQUARE_ENDS, pleats=(0.27, 0.5, 0.72), cup=0.8, crumple=0.6
)
_KN95 = Template("folded", _FOLDED, 0.06, "loops", _POINTED_ENDS, ridge=1.0, cup=0.9)
_N95 = Template("cup", _CUP, 0.1, "straps", ((0.66, 0.2), (0.82, 0.78)), cup=1.5, crumple=0.05)
_SEWN = Template(
    "plain", _CLOTH, 0.05, "loops", _POINTED_ENDS, cup=0.9, crumple=0.6, has_wire=False, stitched=True
)
_BEAK = Template(
    "beak", _DUCKBILL, 0.16, "straps", ((0.93, 0.33), (0.93, 0.47)), creases=(0.24, 0.68), cup=1.1
)

_TEMPLATES: Final[dict[str, tuple[Template, ...]]] = {
    "surgical": (
        _PLEATED,
        replace(_PLEATED, name="two_pleats", pleats=(0.36, 0.66)),
        replace(_PLEATED, name="four_pleats", pleats=(0.2, 0.4, 0.6, 0.78)),
    ),
    "kn95": (
        _KN95,
        replace(_KN95, name="folded_crossed", creases=(0.3,), ridge=0.9),
        replace(_KN95, name="folded_valve", ridge=0.9, valve=(0.42, 0.58, 0.15)),
    ),
    "n95": (_N95, replace(_N95, name="cup_valve", valve=(0.0, 0.58, 0.17))),
    "cloth": (
        _SEWN,
        replace(_SEWN, name="seamed", ridge=0.6),
        replace(_SEWN, name="pleated", half=_SURGICAL, anchors=_SQUARE_ENDS, pleats=(0.34, 0.62), cup=0.8),
        replace(
            _SEWN, name="stretch", half=_STRETCH, fastening="none", ridge=0.35, crumple=0.2, stitched=False
        ),
    ),
    "duckbill": (_BEAK, replace(_BEAK, name="beak_loops", fastening="loops")),
}


def templates_of(mask_type: MaskType) -> tuple[Template, ...]:
    """Return the cuts of a type."""
    return _TEMPLATES[mask_type]


@cache
def _outline(half: tuple[tuple[float, float, bool], ...]) -> Float[np.ndarray, "n 2"]:
    points = np.array([(s, t) for s, t, _ in half])
    corners = [
        0,
        *(k for k, (_, _, corner) in enumerate(half) if corner and 0 < k < len(half) - 1),
        len(half) - 1,
    ]
    pieces = []
    for first, last in pairwise(corners):
        piece = points[first : last + 1]
        before = piece[1] * [-1, 1] if first == 0 and not half[0][2] else 2 * piece[0] - piece[1]
        is_end = last == len(half) - 1 and not half[-1][2]
        after = piece[-2] * [-1, 1] if is_end else 2 * piece[-1] - piece[-2]
        pieces.append(_catmull_rom(np.vstack([before, piece, after]), steps=5))
    right = np.vstack([*pieces, points[-1:]])
    left = right[-2:0:-1] * [-1, 1]
    return np.vstack([right, left])


def _catmull_rom(knots: Float[np.ndarray, "k 2"], *, steps: int) -> Float[np.ndarray, "m 2"]:
    """Sample the spline through `knots[1:-1]`, without its last point."""
    u = np.linspace(0, 1, steps, endpoint=False)[:, None]
    before, start, end, after = (knots[k : len(knots) - 3 + k, None] for k in range(4))
    curve = start + 0.5 * u * (
        end
        - before
        + u * (2 * before - 5 * start + 4 * end - after + u * (3 * (start - end) + after - before))
    )
    return np.asarray(curve.reshape(-1, 2))
