"""Golden faces: what a release must answer before it is served.

A release carries a few drawn faces and the answers of its own graph to them. Whoever is about to serve it
asks the graph again: a damaged graph, one that was put in another's place, or a runtime that computes
otherwise answers differently. The faces are drawn by the project; no photograph travels with a release.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import UInt8

from maskfer.data.synthetic import Person, Pose, Scene, draw_face
from maskfer.errors import ReleaseCorrupted, ReleaseError
from maskfer.faces.crop import crop_face
from maskfer.faces.face import Box, FaceDetector, Points
from maskfer.inference import OUTPUTS, Analyzer, Crops, Predictions
from maskfer.labels import EXPRESSIONS, ORIENTATIONS
from maskfer.masking.templates import MaskStyle
from maskfer.masking.wear import wear_mask
from maskfer.release import GOLDEN, Release

TOLERANCE: Final = 1e-3
"""Largest difference from the answer in the release, in probability. Graph optimisation, batch size and
number of threads were seen to move an answer by 2.4e-7; what is allowed leaves room for other processors."""
_SUM_TOLERANCE: Final = 1e-3
_FACES: Final = "faces"
_PICTURE_SIZE: Final = 128
_SEED: Final = 96
_MASK: Final = MaskStyle("surgical", "#a9d4ea")
_REMEDY: Final = "; train or export it again"


def record(predict: Callable[[Crops], Predictions], *, size: int, context: float) -> dict[str, bytes]:
    """Return the files of a release's `golden/` folder: drawn faces and what `predict` answers to them."""
    faces = draw(size=size, context=context)
    answers = predict(faces)
    arrays = {_FACES: faces} | {name: getattr(answers, name) for name in OUTPUTS}
    return {f"{name}.npy": _npy(array) for name, array in arrays.items()}


def checked_analyzer(release: Release, detector: FaceDetector | None = None) -> Analyzer:
    """Load a release and let it answer its golden faces.

    Raises `ReleaseError` where the graph does not load or `check` finds fault with it.
    """
    analyzer = Analyzer(release, detector)
    check(analyzer)
    return analyzer


def check(analyzer: Analyzer) -> None:
    """Raise `ReleaseError` where a release does not answer its golden faces as it states.

    Of a release that carries none (it was made before there were any) the answers to the faces of this
    version only have to be probabilities.
    """
    release = analyzer.release
    if not any(name.startswith(GOLDEN) for name in release.files):
        faces = draw(size=release.crop_size, context=release.crop_context)
        _check_sane(analyzer.predict(faces), release)
        return
    answers = analyzer.predict(_read(release, _FACES))
    _check_sane(answers, release)
    for name in OUTPUTS:
        got, want = getattr(answers, name), _read(release, name)
        difference = float(np.abs(got - want).max()) if got.shape == want.shape else np.inf
        if not difference <= TOLERANCE:
            raise ReleaseError(
                f"{release.path}: output {name!r} differs by {difference:.2g} from what the release states "
                f"for its golden faces, allowed is {TOLERANCE:g}; the graph is not the exported one, or "
                "this ONNX Runtime computes otherwise: export it again"
            )


@lru_cache(maxsize=2)
def draw(*, size: int, context: float) -> UInt8[np.ndarray, "n size size"]:
    """Draw a face of every orientation and its masked twin, as grey crops; always the same ones."""
    rng = np.random.default_rng(_SEED)
    crops = []
    for index, orientation in enumerate(ORIENTATIONS):
        pose = Pose.random(EXPRESSIONS[index % len(EXPRESSIONS)], orientation, rng)
        person, scene = Person.random(rng), Scene.random(rng)
        image, landmarks = draw_face(person, pose, scene, size=_PICTURE_SIZE, rng=rng)
        masked, _ = wear_mask(image, landmarks, orientation, style=_MASK, rng=rng)
        crops += [crop_face(face, _box(landmarks), size=size, context=context)[0] for face in (image, masked)]
    faces = np.stack([cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in crops]).astype(np.uint8, copy=False)
    faces.flags.writeable = False  # every caller gets this array
    return faces


def _box(landmarks: Points) -> Box:
    """The box a detector would give: the landmarks and as much above the brows as a forehead takes."""
    left, top = landmarks.min(axis=0).tolist()
    right, bottom = landmarks.max(axis=0).tolist()
    forehead = 0.3 * (bottom - top)
    return Box(left, top - forehead, right - left, bottom - top + forehead)


def _check_sane(answers: Predictions, release: Release) -> None:
    shapes = {"expression": len(release.classes), "orientation": len(release.orientations)}
    for name in OUTPUTS:
        values = getattr(answers, name)
        if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1 + _SUM_TOLERANCE).all()):
            raise ReleaseError(
                f"{release.path}: output {name!r} holds values that are no probabilities{_REMEDY}"
            )
        if name in shapes and values.shape != (len(answers), shapes[name]):
            raise ReleaseError(
                f"{release.path}: output {name!r} has shape {list(values.shape)}, its model.json names "
                f"{shapes[name]} for each of {len(answers)} faces{_REMEDY}"
            )
        if name in shapes and np.abs(values.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
            raise ReleaseError(f"{release.path}: the probabilities of {name!r} do not add up to 1{_REMEDY}")


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _read(release: Release, name: str) -> np.ndarray:
    file = release.path / GOLDEN / f"{name}.npy"
    try:
        array: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseCorrupted(
            f"{file}: no golden faces in it ({error}); export the release again"
        ) from error
    return array
