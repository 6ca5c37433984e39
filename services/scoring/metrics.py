"""What Prometheus can read about the service; all of it is on `/metrics`, beside BentoML's own.

BentoML sets `PROMETHEUS_MULTIPROC_DIR`, so every process of the service writes files there and whichever is
asked answers for all. The functions may be called from any thread.
"""

from __future__ import annotations

import os
import threading
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess

from maskfer.inference import Predictions

Refusal = Literal["overload", "timeout", "token", "origin", "connections", "idle", "head"]
_REFUSALS: Final[tuple[Refusal, ...]] = get_args(Refusal)
Drop = Literal["superseded", "overload"]
_DROPS: Final[tuple[Drop, ...]] = ("superseded", "overload")
Role = Literal["champion", "challenger"]
_ROLES: Final[tuple[Role, ...]] = ("champion", "challenger")
ModelEvent = Literal["looks", "switched", "refused", "unreachable"]
_MODEL_EVENTS: Final[tuple[ModelEvent, ...]] = ("looks", "switched", "refused", "unreachable")
Compared = Literal["compared", "failed", "dropped"]
_COMPARED: Final[tuple[Compared, ...]] = ("compared", "failed", "dropped")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CONFIDENCES: Final = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class _Metrics:
    """The metrics of this process."""

    def __init__(self) -> None:
        # A registry of its own: reading goes through the files, and a second instance has no quarrel with it.
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "maskfer_requests", "Requests answered.", ["route", "method", "status"], registry=own
        )
        self.request_seconds = Histogram(
            "maskfer_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            registry=own,
            buckets=_SECONDS,
        )
        self.at_work = Gauge(
            "maskfer_requests_at_work", "Requests now.", registry=own, multiprocess_mode="livesum"
        )
        self.refusals = Counter(
            "maskfer_refusals", "Requests and connections that were refused.", ["reason"], registry=own
        )
        self.faces = Counter("maskfer_faces", "Faces judged.", ["expression", "masked"], registry=own)
        self.confidence = Histogram(
            "maskfer_confidence",
            "Largest probability of a face's expression.",
            registry=own,
            buckets=_CONFIDENCES,
        )
        self.model_seconds = Histogram(
            "maskfer_model_seconds",
            "One run of the network, on the faces of one or more requests.",
            registry=own,
            buckets=_SECONDS,
        )
        self.model = Gauge(
            "maskfer_model_info",
            "1 for the model that answers, 0 for those that did.",
            ["name", "version", "sha256"],
            registry=own,
            multiprocess_mode="livemax",
        )
        self.live_clients = Gauge(
            "maskfer_live_clients", "Live connections now.", registry=own, multiprocess_mode="livesum"
        )
        self.live_frames = Counter(
            "maskfer_live_frames", "Live frames answered with a reading.", registry=own
        )
        self.live_drops = Counter(
            "maskfer_live_dropped_frames", "Live frames let go.", ["reason"], registry=own
        )
        self.drift_reference = Gauge(
            "maskfer_drift_reference",
            "Whether the model that answers carries reference statistics.",
            registry=own,
            multiprocess_mode="livemax",
        )
        self.drift_faces = Gauge(
            "maskfer_drift_window_faces",
            "Faces that are compared with the reference.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.drift = Gauge(
            "maskfer_drift_psi",
            "Population stability index of the last faces against the reference.",
            ["feature"],
            registry=own,
            multiprocess_mode="livemax",
        )
        self.model_events = Counter(
            "maskfer_model_events", "What following an alias met.", ["role", "event"], registry=own
        )
        self.shadow_faces = Counter(
            "maskfer_shadow_faces", "Faces for the challenger in the shadow.", ["outcome"], registry=own
        )
        self.statistics_failures = Counter(
            "maskfer_statistics_failures", "Attempts in vain at the statistics' database.", registry=own
        )
        self.statistics_lost = Counter(
            "maskfer_statistics_lost", "Sums of statistics let go while the database was away.", registry=own
        )
        self._begin_at_zero()
        self.answering: tuple[str, str, str] | None = None

    def _begin_at_zero(self) -> None:
        """Have the labels from the start, so that the first of a kind is an increase."""
        for counter, labels in (
            (self.refusals, _REFUSALS),
            (self.live_drops, _DROPS),
            (self.shadow_faces, _COMPARED),
        ):
            for label in labels:
                counter.labels(label)
        for role, event in product(_ROLES, _MODEL_EVENTS):
            self.model_events.labels(role, event)


_making: Final = threading.Lock()


def _metrics() -> _Metrics:
    # Threads that ask for the first time at once must not make two: they would overwrite each other's counts.
    with _making:
        return _made()


@cache
def _made() -> _Metrics:
    _forget_dead()
    return _Metrics()


def _forget_dead() -> None:
    """Remove what processes that were killed still claim to be doing now."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def begun() -> None:
    """Count a request as being worked on."""
    _metrics().at_work.inc()


def answered(route: str, method: str, status: int, *, seconds: float | None) -> None:
    """Count the answer of a request that `begun` counted; without `seconds` the end of a live connection."""
    metrics = _metrics()
    metrics.requests.labels(route, method, str(status)).inc()
    if seconds is not None:
        metrics.at_work.dec()
        metrics.request_seconds.labels(route).observe(seconds)


def refused(reason: Refusal) -> None:
    """Count a request or a connection that was refused."""
    _metrics().refusals.labels(reason).inc()


def judged(answers: Predictions, *, classes: Sequence[str], seconds: float) -> None:
    """Count the faces of one run of the network."""
    metrics = _metrics()
    metrics.model_seconds.observe(seconds)
    expressions, masked = answers.expression.argmax(axis=1).tolist(), (answers.masked >= 0.5).tolist()
    for (expression, is_masked), count in Counts(zip(expressions, masked, strict=True)).items():
        metrics.faces.labels(classes[expression], "yes" if is_masked else "no").inc(count)
    for confidence in answers.expression.max(axis=1).tolist():
        metrics.confidence.observe(confidence)


def serving(*, name: str, version: str, sha256: str, has_reference: bool) -> None:
    """Say which model answers from now on; what was said of its predecessor's drift ends."""
    metrics = _metrics()
    if metrics.answering is not None:
        metrics.model.labels(*metrics.answering).set(0)
    metrics.answering = (name, version, sha256)
    metrics.model.labels(*metrics.answering).set(1)
    metrics.drift_reference.set(has_reference)
    # The files of several processes know no removal of a label: no number is the nearest to it.
    for child in list(getattr(metrics.drift, "_metrics", {}).values()):
        child.set(float("nan"))
    metrics.drift_faces.set(0)


def drifted(indices: Mapping[str, float], *, faces: int, sha256: str) -> None:
    """Publish how far the last `faces` faces of a model are from its reference, by feature.

    Nothing where another model answers by now.
    """
    metrics = _metrics()
    if metrics.answering is None or metrics.answering[2] != sha256:
        return
    metrics.drift_faces.set(faces)
    for feature, index in indices.items():
        metrics.drift.labels(feature).set(index)


def live_opened() -> None:
    """Count a live connection."""
    _metrics().live_clients.inc()


def live_closed() -> None:
    """Count the end of a live connection."""
    _metrics().live_clients.dec()


def frame_answered() -> None:
    """Count a live frame that got its reading."""
    _metrics().live_frames.inc()


def frame_dropped(reason: Drop = "superseded") -> None:
    """Count a live frame that was let go: for a newer one, or because the service has too much to do."""
    _metrics().live_drops.labels(reason).inc()


def model_event(role: Role, event: ModelEvent) -> None:
    """Count what the follower of an alias met."""
    _metrics().model_events.labels(role, event).inc()


def shadowed(outcome: Compared, faces: int) -> None:
    """Count faces that the challenger was to be asked about."""
    _metrics().shadow_faces.labels(outcome).inc(faces)


def statistics_failed() -> None:
    """Count an attempt in vain at the statistics' database."""
    _metrics().statistics_failures.inc()


def statistics_lost() -> None:
    """Count a sum of statistics that found no room in memory."""
    _metrics().statistics_lost.inc()
