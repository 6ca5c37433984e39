"""What the service answers, apart from HTTP: arrays in, JSON-ready values out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskfer.faces.face import Detection, FaceDetector, Image
from maskfer.golden import checked_analyzer
from maskfer.inference import Analyzer, Crops, FaceReading, GreyCrops, Predictions
from services.model import ServedModel
from services.scoring.batching import Batcher, cores
from services.scoring.logs import count_faces
from services.scoring.pictures import decode_crops, decode_picture
from services.scoring.watch import Watch

if TYPE_CHECKING:
    from services.scoring.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Found:
    """The faces of a picture, not judged yet."""

    width: int
    """Of the picture, pixels."""
    height: int
    detections: list[Detection]
    crops: GreyCrops
    """One per detection, as `Scorer.judged` takes them."""


class Scorer:
    """Answers for one model; `judged` on the event loop, the rest from any thread.

    `runs` is the number of runs of the network at a time; one per core if left out. `shadow` is shown every
    answer. A scorer that nobody refers to any more ends its threads. Raises `ReleaseError` where the model
    does not answer its golden faces.
    """

    def __init__(
        self,
        model: ServedModel,
        detector: FaceDetector,
        *,
        max_pixels: int,
        max_crops: int,
        runs: int | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.model = model
        self.watch = Watch(model)
        # Several runs at a time with one thread each: one run with several threads answers fewer faces.
        self._analyzer = checked_analyzer(model.release, detector)
        size = model.release.crop_size
        self._nothing = self._analyzer.predict(np.empty((0, size, size), np.uint8))
        self._batcher = Batcher(_Network(model, self._analyzer, self.watch, shadow), runs=runs or cores())
        self._max_pixels = max_pixels
        self._max_crops = max_crops

    def crops(self, parts: Sequence[bytes]) -> GreyCrops:
        """Return the crops of a request: its body, or the files of a form."""
        crops = decode_crops(parts, size=self.model.release.crop_size, max_crops=self._max_crops)
        return self._analyzer.grey(crops)

    def scan(self, content: bytes) -> Found:
        """Decode a picture and find its faces."""
        image = decode_picture(content, max_pixels=self._max_pixels)
        detections, crops = self.find(image)
        return Found(image.shape[1], image.shape[0], detections, crops)

    def find(self, image: Image) -> tuple[list[Detection], GreyCrops]:
        """Return every face of a picture, most confident first, and its crop as `judged` takes it."""
        return self._analyzer.find(image)

    async def judged(self, crops: Crops) -> Predictions:
        """Ask the network, together with whoever else asks now, without holding a thread.

        Every answer of the service comes through here. Raises `InputError` where they are no crops of the
        release's size.
        """
        faces = self._analyzer.grey(crops)
        if len(faces) == 0:
            return self._nothing
        answers = await self._batcher.submit(faces)
        count_faces(len(answers))
        return answers

    def predictions(self, judged: Predictions) -> dict[str, Any]:
        """Return the answer to crops."""
        release = self.model.release
        orientations = judged.orientation.argmax(axis=1).tolist()
        rows = zip(judged.expression.tolist(), judged.masked.tolist(), orientations, strict=True)
        predictions = [
            _verdict(
                dict(zip(release.classes, expression, strict=True)),
                masked_probability=masked,
                orientation=release.orientations[orientation],
            )
            for expression, masked, orientation in rows
        ]
        return {"model": self.identity(), "predictions": predictions}

    def analysis(self, found: Found, judged: Predictions) -> dict[str, Any]:
        """Return the answer to a picture."""
        return {
            "model": self.identity(),
            "image": {"width": found.width, "height": found.height},
            "faces": [_face(reading) for reading in self._analyzer.readings(found.detections, judged)],
        }

    def identity(self) -> dict[str, str]:
        """Return what the service calls its model: name, version, sha256."""
        return {"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256}


class _Network:
    """The network, and what is noted of each run; refers to no scorer, which its threads would keep."""

    def __init__(self, model: ServedModel, analyzer: Analyzer, watch: Watch, shadow: Shadow | None) -> None:
        self._model = model
        self._analyzer = analyzer
        self._watch = watch
        self._shadow = shadow

    def __call__(self, faces: GreyCrops) -> Predictions:
        """Judge faces of one or more requests."""
        started_s = time.perf_counter()
        answers = self._analyzer.predict(faces)
        self._watch.note(faces, answers, seconds=time.perf_counter() - started_s)
        if self._shadow is not None:
            self._shadow.offer(self._model, self._analyzer, faces, answers)
        return answers


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
