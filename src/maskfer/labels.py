"""The names that label a face, and how the two label sets relate."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

EXPRESSIONS: Final = ("positive", "neutral", "negative")
"""The paper's three classes (§3)."""

EMOTIONS: Final = (
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
)
"""The eight emotion names of FERPlus and AffectNet."""

_EXPRESSION_OF_EMOTION: Final = {
    "anger": "negative",
    "contempt": "negative",
    "disgust": "negative",
    "fear": "negative",
    "happiness": "positive",
    "neutral": "neutral",
    "sadness": "negative",
}


class Orientation(StrEnum):
    """Where the face looks, as the viewer sees it: `LEFT` is towards the picture's left edge (§3)."""

    UP = "up"
    LEFT = "left"
    CENTER = "center"
    RIGHT = "right"
    DOWN = "down"


ORIENTATIONS: Final = tuple(Orientation)


def expression_of(emotion: str) -> str | None:
    """Map an emotion to one of the three classes; surprise belongs to none of them (§3 leaves it out)."""
    return _EXPRESSION_OF_EMOTION.get(emotion)


def label_column(classes: tuple[str, ...]) -> str:
    """Return the column of the faces table that holds these classes: `expression` or `emotion`.

    Raises `ValueError` when the classes are neither all expressions nor all emotions.
    """
    if set(classes) <= set(EXPRESSIONS):
        return "expression"
    if set(classes) <= set(EMOTIONS):
        return "emotion"
    unknown = sorted(set(classes) - set(EXPRESSIONS) - set(EMOTIONS))
    raise ValueError(
        f"classes {list(classes)} are neither expressions {list(EXPRESSIONS)} nor emotions {list(EMOTIONS)}"
        + (f"; unknown: {unknown}" if unknown else "; do not mix the two")
    )
