"""What the service answers, apart from HTTP: arrays in, JSON-ready values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskfer.faces.face import Detection, FaceDetector, Image
from maskfer.inference import Analyzer, Crops, FaceReading, Predictions
from services.model import ServedModel
from services.scoring.pictures import decode_crops, decode_picture


class Scorer:
    """Answers for one model; may be called from several threads."""

    def __init__(
        self, model: ServedModel, detector: FaceDetector, *, max_pixels: int, max_crops: int
    ) -> None:
        self.model = model
        self._analyzer = Analyzer(model.release, detector)
        self._max_pixels = max_pixels
        self._max_crops = max_crops

    def predict(self, parts: Sequence[bytes]) -> dict[str, Any]:
        """Judge crops: the body of a request, or the files of a form."""
        release = self.model.release
        crops = decode_crops(parts, size=release.crop_size, max_crops=self._max_crops)
        judged = self.judge(crops)
        orientations = judged.orientation.argmax(axis=1)
        predictions = [
            _verdict(
                dict(zip(release.classes, judged.expression[i].tolist(), strict=True)),
                masked_probability=float(judged.masked[i]),
                orientation=release.orientations[orientations[i]],
            )
            for i in range(len(judged))
        ]
        return {"model": self.identity(), "predictions": predictions}

    def analyze(self, content: bytes) -> dict[str, Any]:
        """Find and judge the faces of a picture."""
        image = decode_picture(content, max_pixels=self._max_pixels)
        detections, crops = self.find(image)
        readings = self._analyzer.readings(detections, self.judge(crops)) if detections else []
        faces = [_face(reading) for reading in readings]
        return {"model": self.identity(), "image": _size(image), "faces": faces}

    def find(self, image: Image) -> tuple[list[Detection], Crops]:
        """Return every face of a picture, most confident first, and its crop as `judge` takes it."""
        return self._analyzer.find(image)

    def judge(self, crops: Crops) -> Predictions:
        """Ask the network; every answer of the service comes through here."""
        return self._analyzer.predict(crops)

    def identity(self) -> dict[str, str]:
        """Return what the service calls its model: name, version, sha256."""
        return {"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256}


def _face(reading: FaceReading) -> dict[str, Any]:
    box = reading.box
    return {
        "box": {"left": box.left, "top": box.top, "width": box.width, "height": box.height},
        "confidence": reading.confidence,
        **_verdict(
            reading.probabilities,
            masked_probability=reading.masked_probability,
            orientation=reading.orientation,
        ),
    }


def _verdict(
    probabilities: dict[str, float], *, masked_probability: float, orientation: str
) -> dict[str, Any]:
    return {
        "probabilities": probabilities,
        "expression": max(probabilities, key=probabilities.__getitem__),
        "masked": masked_probability >= 0.5,
        "masked_probability": masked_probability,
        "orientation": str(orientation),
    }


def _size(image: Image) -> dict[str, int]:
    return {"width": image.shape[1], "height": image.shape[0]}
