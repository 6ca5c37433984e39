"""What is shown of a face over time: it follows the face and does not flicker.

Probabilities are averaged with a time constant in seconds, so that what is shown does not depend on the frame
rate. A label changes only where another leads clearly, and not for a single frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

TIME_CONSTANT_S: Final = 0.35
"""After this time a change of the face has come to 63 % of what is shown."""
MARGIN: Final = 0.1
"""How far another label has to lead before it is shown."""
HOLD_S: Final = 0.2
"""How long it has to lead; a lead in one frame alone never changes a label, at any frame rate."""

Vector = Float32[np.ndarray, " n"] | Float64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a face after a frame."""

    expression: Float64[np.ndarray, " classes"]
    """Smoothed probabilities; sums to 1."""
    label: int
    """Index of the class shown."""
    masked_probability: float
    masked: bool
    orientation: int
    """Index of the direction shown."""
    heatmap: Float64[np.ndarray, "g g"]


class FaceSmoother:
    """The smoothed reading of one face; frames come in order of time, seconds on any clock."""

    def __init__(self) -> None:
        self._seen_s: float | None = None
        self._expression: Float64[np.ndarray, " classes"] = np.empty(0)
        self._masked = 0.0
        self._direction: Float64[np.ndarray, " orientations"] = np.empty(0)
        self._heatmap: Float64[np.ndarray, "g g"] = np.empty((0, 0))
        self._label, self._mask_label, self._direction_label = SteadyLabel(), SteadyLabel(), SteadyLabel()

    def update(
        self,
        at_s: float,
        *,
        expression: Vector,
        masked_probability: float,
        orientation: Vector,
        heatmap: Float32[np.ndarray, "g g"],
    ) -> Shown:
        """Take what the network says of one frame; the first frame is shown as it is."""
        # A direction is a vote for the likeliest: of votes an average is a majority that forgets.
        vote = np.zeros(len(orientation))
        vote[int(np.argmax(orientation))] = 1.0
        if self._seen_s is None:
            self._expression, self._masked = expression.astype(np.float64), masked_probability
            self._direction, self._heatmap = vote, heatmap.astype(np.float64)
        else:
            share = -math.expm1(-max(0.0, at_s - self._seen_s) / TIME_CONSTANT_S)
            self._expression = self._expression + share * (expression - self._expression)
            self._masked += share * (masked_probability - self._masked)
            self._direction = self._direction + share * (vote - self._direction)
            # Another champion may have another grid; places of one have no average with places of the other.
            before = self._heatmap if self._heatmap.shape == heatmap.shape else heatmap.astype(np.float64)
            self._heatmap = before + share * (heatmap - before)
        self._seen_s = at_s
        return Shown(
            expression=self._expression,
            label=self._label.update(at_s, self._expression),
            masked_probability=self._masked,
            masked=self._mask_label.update(at_s, np.array([self._masked, 1.0 - self._masked])) == 0,
            orientation=self._direction_label.update(at_s, self._direction),
            heatmap=self._heatmap,
        )


class SteadyLabel:
    """The index of the greatest share, with hysteresis in height (`MARGIN`) and in time (`HOLD_S`)."""

    def __init__(self) -> None:
        self._shown: int | None = None
        self._beaten_since_s: float | None = None

    def update(self, at_s: float, shares: Vector) -> int:
        """Take the shares of one moment and return the index shown."""
        leader = int(np.argmax(shares))
        if self._shown is None:
            self._shown = leader
        elif shares[leader] - shares[self._shown] < MARGIN:
            self._beaten_since_s = None
        elif self._beaten_since_s is None:
            self._beaten_since_s = at_s
        elif at_s - self._beaten_since_s >= HOLD_S:
            self._shown, self._beaten_since_s = leader, None
        return self._shown
