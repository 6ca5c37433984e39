"""Where the weights lie that the package `face-recognition-models` brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

LANDMARKS: Final = "shape_predictor_68_face_landmarks.dat"
RECOGNITION: Final = "dlib_face_recognition_resnet_model_v1.dat"
_PACKAGE: Final = "face_recognition_models"


def packaged_weights(name: str) -> Path | None:
    """Return the file `name` of that package; None where it is not installed."""
    # Found, not imported: importing that package needs pkg_resources, which setuptools no longer has.
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    paths = (Path(folder, "models", name) for folder in folders)
    return next((path for path in paths if path.is_file()), None)
