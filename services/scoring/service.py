"""The scoring service: `bentoml serve services.scoring.service:Scoring`, or `maskfer serve`."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import Any

import bentoml
import cv2
from _bentoml_sdk import Service
from starlette.types import ASGIApp

from maskfer.config import Settings
from services.model import ServedModel, load_model
from services.scoring import connections, edge, logs
from services.scoring.hosting import follow_challenger, follow_champion
from services.scoring.http import create_app, open_app
from services.scoring.scorer import Scorer
from services.scoring.shadow import Shadow
from services.scoring.shadow_records import ShadowRecords
from services.scoring.statistics import Statistics

app = create_app()


class _Surrounded(Service[Any]):  # type: ignore[misc]
    """A BentoML service whose application lies behind `services.scoring.edge`."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Called once in every server process, before its uvicorn is configured."""
        settings = Settings.load()
        logs.configure(settings)
        connections.guard(settings)
        return edge.surround(super().to_asgi(is_main), app, settings)


class _Scoring:
    """Judges faces over HTTP with the champion, or the model that `MASKFER_SCORING_MODEL` names."""

    def __init__(self) -> None:
        from maskfer.faces.detect import default_detector

        settings = Settings.load()
        # Requests run beside each other; OpenCV's own threads would only contend with them.
        cv2.setNumThreads(1)
        detector = default_detector()
        shadow = Shadow(ShadowRecords(settings.home)) if settings.shadow_model else None

        def make(model: ServedModel) -> Scorer:
            return Scorer(
                model,
                detector,
                max_pixels=settings.max_pixels,
                max_crops=settings.max_crops,
                runs=settings.network_runs,
                shadow=shadow,
            )

        open_app(app, make(load_model(settings.scoring_model, settings)), settings)
        app.state.statistics = Statistics(settings.statistics_address, days=settings.statistics_days)
        # Nothing else may hold a scorer: a replaced one goes with the last request that it answers.
        app.state.follower = follow_champion(app.state, settings, make=make)
        if shadow is not None and settings.shadow_model is not None:
            shadow.start()
            follow_challenger(app.state, settings, shadow, reference=settings.shadow_model)
        _end_with_parent()
        _calm_collector()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Write the statistics that wait; called once nobody is connected any more."""
        app.state.statistics.close()

    async def __is_ready__(self) -> bool:
        """The model is loaded and has answered once by the time this can be asked."""
        return hasattr(app.state, "scorer")


# Of probes and scrapes; our own log has a line for each, and nobody collects the traces.
Scoring = _Surrounded(
    name="scoring",
    config={
        "workers": 1,
        "logging": {"access": {"enabled": False}},
        "tracing": {"excluded_urls": ["/"]},
    },
    inner=_Scoring,
)
"""What `bentoml serve` looks for."""
Scoring.add_asgi_middleware(edge.Floor)


def _end_with_parent() -> None:
    """End this process once the server that started it is gone, even where it was killed outright."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _calm_collector() -> None:
    """Keep the garbage collector from walking the libraries' objects during a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
