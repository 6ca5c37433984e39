"""What is left in MLflow: one run per release with its figures, lineage and files, one run per promotion."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from maskfer.registry.history import Event
from maskfer.registry.versions import FILE_SHA256, RELEASE_SHA256
from maskfer.release import Lineage, Release

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

RELEASE_FOLDER: Final = "release"
_DIGEST_LENGTH: Final = 36
"""MLflow keeps no longer dataset digest; the whole hash is a tag."""
_VALUE_LENGTH: Final = 6000
"""MLflow's limit for a parameter's value."""


def experiment_id(client: MlflowClient, name: str, *, artifact_location: str | None) -> str:
    """Return the experiment of that name, made or restored where it is not there."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def fill_run(client: MlflowClient, run_id: str, release: Release) -> None:
    """Log a release's parameters, figures, dataset lineage and files to a run."""
    metadata = release.metadata
    fill_figures(client, run_id, params=metadata.params, figures=metadata.metrics, lineage=metadata.lineage)
    client.log_artifacts(run_id, str(release.path), artifact_path=RELEASE_FOLDER)


def fill_figures(
    client: MlflowClient,
    run_id: str,
    *,
    params: Mapping[str, Any],
    figures: Mapping[str, Any],
    lineage: Lineage,
) -> None:
    """Log parameters, figures and dataset lineage to a run."""
    from mlflow.entities import Metric, Param, RunTag

    now_ms = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now_ms, 0) for key, value in numbers(figures).items()],
        params=[Param(key, value[:_VALUE_LENGTH]) for key, value in flat(params).items()],
        tags=[RunTag(key, value) for key, value in lineage_tags(lineage).items()],
    )
    client.log_inputs(run_id, [_dataset_input(lineage)])


@contextmanager
def finished(client: MlflowClient, run_id: str) -> Iterator[None]:
    """End a run with the block: FINISHED, or FAILED where the block raises."""
    done = False
    try:
        yield
        done = True
    finally:
        client.set_terminated(run_id, status="FINISHED" if done else "FAILED")


def events_name(name: str) -> str:
    """Return the name of the experiment that holds a model's promotions."""
    return f"{name}-promotions"


def trials_name(name: str) -> str:
    """Return the name of the experiment that holds the trials of a model's accuracy table."""
    return f"{name}-accuracy"


def events(client: MlflowClient, name: str) -> list[Event]:
    """Return every change of champion of a model, oldest first, deleted runs included."""
    runs = _finished_runs(client, events_name(name))
    found = [event_of(run) for run in runs if "kind" in run.data.tags]
    return sorted(found, key=lambda event: event.at)


def run_metrics(client: MlflowClient, name: str) -> dict[str, dict[str, float]]:
    """Return the figures of every run of a model by the run's id, deleted runs included."""
    return {run.info.run_id: dict(run.data.metrics) for run in _finished_runs(client, name)}


def event_of(run: Run) -> Event:
    """Read an event from its run."""
    tags = run.data.tags
    return Event(
        event_id=run.info.run_id,
        kind="rolled_back" if tags["kind"] == "rolled_back" else "promoted",
        version=int(tags["version"]),
        previous=int(tags["previous"]) if tags["previous"] else None,
        at=time_of(run.info.end_time or run.info.start_time),
        actor=tags["actor"],
        reason=tags["reason"],
        forced=tags["forced"] == "true",
        release_sha256=tags[RELEASE_SHA256] or None,
    )


def time_of(milliseconds: int) -> datetime:
    """Return MLflow's time as a time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """Return where a release comes from, as tags; what is not known is left out."""
    return {key: value for key, value in lineage.model_dump().items() if value is not None}


def version_tags(release: Release) -> dict[str, str]:
    """Return what a version states about itself: identity, origin and the sha256 of every file."""
    return {
        RELEASE_SHA256: release.sha256,
        **lineage_tags(release.metadata.lineage),
        **{f"{FILE_SHA256}{name}": sha256 for name, sha256 in release.files.items()},
    }


def actor() -> str:
    """Return who acts: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return `{"data.crop_size": "96", ...}` of nested parameters."""
    out: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            out[f"{prefix}{key}"] = text
    return out


def numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return `{"slices/masked/accuracy": 0.9, ...}` of a nested evaluation; lists and nulls are left out."""
    out: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            out[f"{prefix}{key}"] = float(value)
    return out


def _finished_runs(client: MlflowClient, experiment_name: str) -> list[Run]:
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(experiment_name)
    runs: list[Run] = []
    token: str | None = None
    while experiment is not None:
        page = client.search_runs(
            [experiment.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            run_view_type=ViewType.ALL,
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _dataset_input(lineage: Lineage) -> DatasetInput:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    source = CodeDatasetSource(tags=lineage_tags(lineage))
    digest = lineage.dataset_sha256[:_DIGEST_LENGTH]
    dataset = MetaDataset(source, name="faces", digest=digest)  # type: ignore[abstract] # MLflow's own stub
    return DatasetInput(
        dataset=dataset._to_mlflow_entity(),
        tags=[InputTag("mlflow.data.context", "training")],
    )
