"""Every face of one picture gets a mask: detect, place landmarks, tell the orientation, wear."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Self

import numpy as np
from jaxtyping import Bool, UInt8

from maskfer.config import MaskingParams
from maskfer.faces.detect import SlimeFaceDetector
from maskfer.faces.face import Detection, Image, Points
from maskfer.faces.landmarks import DlibLandmarks
from maskfer.faces.orientation import orientation_of
from maskfer.masking.templates import MASK_TYPES, MaskStyle, MaskType, Pattern
from maskfer.masking.wear import CannotWear, wear_mask

_GLANCE_PX: Final = (160, 640)
"""Smallest and largest longer side of the first look; in between it is half the picture's."""
_FULL_PX: Final = 1280
_PORTRAIT: Final = 1 / 3
"""A lone face at least this large, of the picture's longer side, makes the picture a portrait."""


@dataclass(frozen=True, slots=True)
class StyleChoice:
    """What the user fixed of a mask's style; None is left to chance."""

    type: MaskType | None = None
    color: str | None = None
    pattern: Pattern | None = None
    keeps_color: bool = False
    """Masks on grey photographs keep their colour."""

    @classmethod
    def parse(
        cls, mask_type: str | None, color: str | None, pattern: str | None, *, keeps_color: bool
    ) -> Self:
        """Check what a user typed; raises `ValueError` with the names that are known."""
        example = MASK_TYPES[0], "#000000", None
        checked = MaskStyle(mask_type or example[0], color or example[1], pattern)  # type: ignore[arg-type]
        return cls(
            type=checked.type if mask_type else None,
            color=checked.color if color else None,
            pattern=checked.pattern,
            keeps_color=keeps_color,
        )

    def draw(self, params: MaskingParams, rng: np.random.Generator) -> MaskStyle:
        """Draw the rest of the style."""
        drawn = MaskStyle.random(params, rng, mask_type=self.type)
        return replace(drawn, color=self.color or drawn.color, pattern=self.pattern or drawn.pattern)


@dataclass(frozen=True, slots=True)
class MaskedPicture:
    """A picture after AWFM."""

    image: UInt8[np.ndarray, "h w 3"]
    region: Bool[np.ndarray, "h w"]
    """Covered by any of the masks."""
    masked: int
    """Faces that wear a mask now."""
    reasons: tuple[str, ...]
    """One for each face that was found and could not be masked."""


class MaskWearer:
    """Finds the faces of pictures and masks them all; not to be shared between threads.

    Loading takes about 1.5 s. Raises `InputError` when the detector or the landmark weights are missing.
    """

    def __init__(self, *, params: MaskingParams, choice: StyleChoice, seed: int) -> None:
        self._params, self._choice, self._seed = params, choice, seed
        self.keeps_color = choice.keeps_color
        self._detector = cache(lambda side_px: SlimeFaceDetector(sides_px=(side_px,)))
        self._landmarks = DlibLandmarks()

    def find_faces(self, image: Image) -> list[Detection]:
        """Return the faces, most confident first.

        Detection costs more than everything else, and four times less on half the size. One large face at a
        glance is a portrait, and that is all we look for; anything else is searched at full size. The
        detector needs about 30 px, so that a bystander under 60 px can be missed on a portrait.
        """
        longer = max(image.shape[:2])
        glance = min(max(_GLANCE_PX[0], longer // 2), _GLANCE_PX[1])
        if longer > glance:
            faces = self._detector(glance).detect(image)
            if len(faces) == 1 and max(faces[0].box.width, faces[0].box.height) >= _PORTRAIT * longer:
                return faces
        return self._detector(_FULL_PX).detect(image)

    def place(self, image: Image, faces: list[Detection]) -> list[Points]:
        """Return each face's 68 landmarks."""
        return [self._landmarks.predict_checked(image, face) for face in faces]

    def wear(self, image: Image, *, name: str) -> MaskedPicture:
        """Mask every face of a BGR picture; `name` and the seed decide what each face wears."""
        faces = self.find_faces(image)
        return self.dress(image, faces, self.place(image, faces), name=name)

    def dress(
        self, image: Image, faces: list[Detection], placed: list[Points], *, name: str
    ) -> MaskedPicture:
        """Mask faces whose landmarks are known."""
        worn, region, masked, reasons = image, np.zeros(image.shape[:2], dtype=bool), 0, []
        for index, (face, landmarks) in enumerate(zip(faces, placed, strict=True)):
            x, y = face.box.center
            where = f"face {index + 1} at ({x:.0f}, {y:.0f})"
            rng = _rng_for(self._seed, name, index)
            style = self._choice.draw(self._params, rng)
            try:
                worn, covered = wear_mask(
                    worn,
                    landmarks,
                    orientation_of(landmarks),
                    style=style,
                    rng=rng,
                    grey=False if self._choice.keeps_color else None,
                )
            except CannotWear as error:
                reasons.append(f"{where}: {error}")
                continue
            region |= covered
            masked += 1
        return MaskedPicture(worn, region, masked, tuple(reasons))


def _rng_for(seed: int, name: str, face: int) -> np.random.Generator:
    """Return a generator that depends on the picture's name and not on who draws it, or when."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), face])
