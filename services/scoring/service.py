"""The scoring service: `bentoml serve services.scoring.service:Scoring`, or `maskfer serve`."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import bentoml
import cv2

from maskfer.config import Settings
from services.model import load_model
from services.scoring.http import ModelHeaders, create_app, open_app
from services.scoring.scorer import Scorer

app = create_app()


# A short timeout: BentoML keeps a timer per request until it ends, and thousands of them are felt at p99.
# Its access log and its tracing, which nobody collects, took more time than all the rest of a request.
@bentoml.service(
    name="scoring",
    workers=1,
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ["/"]},
)
@bentoml.asgi_app(app, path="/")
class Scoring:
    """Judges faces over HTTP with the champion, or the model that `MASKFER_SCORING_MODEL` names."""

    def __init__(self) -> None:
        from maskfer.faces.detect import default_detector

        settings = Settings.load()
        # Requests run beside each other; OpenCV's own threads would only contend with them.
        cv2.setNumThreads(1)
        self.scorer = Scorer(
            load_model(settings.scoring_model, settings),
            default_detector(),
            max_pixels=settings.max_pixels,
            max_crops=settings.max_crops,
            runs=settings.network_runs,
        )
        open_app(app, self.scorer, settings)
        _end_with_parent()
        _calm_collector()

    async def __is_ready__(self) -> bool:
        """The model is loaded and has answered once by the time this can be asked."""
        return hasattr(app.state, "scorer")


Scoring.add_asgi_middleware(ModelHeaders, state=app.state)  # type: ignore[attr-defined]


def _end_with_parent() -> None:
    """End this process once the server that started it is gone, even where it was killed outright."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _calm_collector() -> None:
    """Keep the garbage collector from walking the libraries' objects during a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
