"""Runs a release: faces in, probabilities out. ONNX Runtime only, as everywhere the model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import onnxruntime as ort
from jaxtyping import Float32, UInt8
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from maskfer.errors import InputError, ReleaseError
from maskfer.faces.crop import crop_face, model_input, without_color
from maskfer.faces.face import Box, Detection, FaceDetector, Image
from maskfer.release import Release

INPUT: Final = "faces"
OUTPUTS: Final = ("expression", "masked", "orientation", "heatmap")
_MAX_BATCH: Final = 256
"""Faces in one run of the network: more gains no speed and costs memory."""

_LOAD_ERRORS: Final = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

GreyCrops = UInt8[np.ndarray, "n s s"]
Crops = GreyCrops | UInt8[np.ndarray, "n s s 3"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says about n faces."""

    expression: Float32[np.ndarray, "n classes"]
    """Probabilities that sum to 1, in the order of `Release.classes`."""
    masked: Float32[np.ndarray, " n"]
    """Probability that the face wears a mask."""
    orientation: Float32[np.ndarray, "n 5"]
    """Probabilities that sum to 1, in the order of `Release.orientations`."""
    heatmap: Float32[np.ndarray, "n g g"]
    """H_m in (0, 1): how much the place speaks for a mask (PAPER-NOTES, §5.1)."""

    def __len__(self) -> int:
        return len(self.masked)

    def __getitem__(self, faces: slice) -> Self:
        return type(self)(*(getattr(self, name)[faces] for name in OUTPUTS))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Join the predictions of consecutive batches."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUTS))


@dataclass(frozen=True, slots=True)
class FaceReading:
    """One face of a picture, found and judged."""

    box: Box
    confidence: float
    """The detector's, in [0, 1]."""
    probabilities: dict[str, float]
    """Per class; sums to 1."""
    masked_probability: float
    orientation: str

    @property
    def masked(self) -> bool:
        """Whether the face more likely wears a mask than not."""
        return self.masked_probability >= 0.5

    @property
    def expression(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class Analyzer:
    """Answers for one release; loads and warms the network when it is made, safe to share among threads.

    `threads` is the number ONNX Runtime uses inside one call. Without `detector` the project's own is made
    at the first `analyze`. Raises `ReleaseError` where the graph does not load or has other inputs and
    outputs than a release's.
    """

    def __init__(self, release: Release, detector: FaceDetector | None = None, *, threads: int = 1) -> None:
        self.release = release
        self._detector = detector
        self._session = _session(release, threads=threads)
        self.predict(np.zeros((1, release.crop_size, release.crop_size), np.uint8))

    def predict(self, crops: Crops) -> Predictions:
        """Judge faces that are cropped already, grey or BGR; raises as `grey` does."""
        grey = self.grey(crops)
        if len(grey) == 0:
            return self._nothing()
        batches = range(0, len(grey), _MAX_BATCH)
        return Predictions.concatenate([self._run(grey[start : start + _MAX_BATCH]) for start in batches])

    def grey(self, crops: Crops) -> GreyCrops:
        """Return crops as the network sees them.

        Raises `InputError` where they are not uint8 squares of the release's crop size.
        """
        size = self.release.crop_size
        if crops.dtype != np.uint8 or crops.shape[1:] not in {(size, size), (size, size, 3)}:
            raise InputError(
                f"crops: got {crops.dtype} {list(crops.shape)}, expected uint8 [n, {size}, {size}] grey "
                f"or [n, {size}, {size}, 3] BGR; cut them with maskfer.faces.crop.crop_face"
            )
        return without_color(crops)

    def find(self, image: Image) -> tuple[list[Detection], UInt8[np.ndarray, "n s s"]]:
        """Return every face of a BGR picture, most confident first, and its grey crop."""
        if self._detector is None:
            from maskfer.faces.detect import default_detector

            self._detector = default_detector()
        release = self.release
        detections = self._detector.detect(image)
        crops = [
            crop_face(image, found.box, size=release.crop_size, context=release.crop_context)[0]
            for found in detections
        ]
        if not crops:
            return [], np.empty((0, release.crop_size, release.crop_size), np.uint8)
        return detections, without_color(np.stack(crops))

    def analyze(self, image: Image) -> list[FaceReading]:
        """Find and judge every face of a BGR picture, most confident first."""
        detections, crops = self.find(image)
        return self.readings(detections, self.predict(crops)) if detections else []

    def readings(self, detections: Sequence[Detection], predictions: Predictions) -> list[FaceReading]:
        """Join the faces that `find` found with what `predict` says of their crops."""
        release = self.release
        orientations = predictions.orientation.argmax(axis=1)
        return [
            FaceReading(
                box=found.box,
                confidence=found.confidence,
                probabilities=dict(zip(release.classes, predictions.expression[i].tolist(), strict=True)),
                masked_probability=float(predictions.masked[i]),
                orientation=release.orientations[orientations[i]],
            )
            for i, found in enumerate(detections)
        ]

    def _run(self, crops: Crops) -> Predictions:
        return Predictions(*self._session.run(list(OUTPUTS), {INPUT: model_input(crops)}))

    def _nothing(self) -> Predictions:
        release = self.release
        one = self._run(np.zeros((1, release.crop_size, release.crop_size), np.uint8))
        return Predictions(*(getattr(one, name)[:0] for name in OUTPUTS))


def _session(release: Release, *, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin steal the cores from decoding and from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            str(release.onnx), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ReleaseError(
            f"{release.onnx}: ONNX Runtime cannot load it: {reason}; export it again"
        ) from error
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if inputs != {INPUT} or not set(OUTPUTS) <= outputs:
        raise ReleaseError(
            f"{release.onnx}: has inputs {sorted(inputs)} and outputs {sorted(outputs)}, expected input "
            f"{INPUT!r} and outputs {list(OUTPUTS)}; export it again"
        )
    return session
