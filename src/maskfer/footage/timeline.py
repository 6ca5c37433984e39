"""The result for one video: a Parquet table of faces over time, which says what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskfer import atomic
from maskfer.errors import VideoError
from maskfer.footage.score import observation_schema
from maskfer.footage.track import assign_tracks, max_gap_s

SCHEMA_VERSION: Final = 1
_METADATA_KEY: Final = b"maskfer"


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """Which model judged."""

    name: str
    version: str
    """The registry's number, or the first twelve digits of the release's sha256."""
    sha256: str
    """Identity of the release (`release.Release.sha256`)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a timeline says about itself; stored as JSON under the key `maskfer` of the file's metadata."""

    source: str
    """File name of the video."""
    source_sha256: str
    fps: float
    """Mean frame rate of the video."""
    frames: int
    """Shown frames of the video."""
    duration_s: float
    """From the first shown frame to the last."""
    width: int
    height: int
    sample_fps: float | None
    """Frames judged per second; None where all were."""
    sampled_frames: int
    """Frames judged; a frame without a row had no face."""
    classes: tuple[str, ...]
    model: ScoringModel
    schema_version: int = SCHEMA_VERSION


def timeline_schema(classes: tuple[str, ...]) -> pa.Schema:
    """Columns of a timeline: a segment's, with the track after the time and the model at the end."""
    observed = list(observation_schema(classes))
    model = [pa.field(name, pa.string(), nullable=False) for name in _MODEL_COLUMNS]
    return pa.schema([*observed[:2], pa.field("track", pa.int32(), nullable=False), *observed[2:], *model])


_MODEL_COLUMNS: Final = ("model_name", "model_version", "model_sha256")


def merge(segments: Sequence[pa.Table], header: Header) -> pa.Table:
    """Join the tables of all segments of a video, number the tracks and add the model and the header."""
    schema = timeline_schema(header.classes)
    empty = observation_schema(header.classes).empty_table()
    observed = pa.concat_tables([empty, *segments])
    # Stable: a frame's faces keep their order, most confident first.
    order = np.argsort(observed["frame"].to_numpy(), kind="stable")
    observed = observed.take(order)
    tracks = assign_tracks(
        observed["frame"].to_numpy(),
        observed["time_s"].to_numpy(),
        _boxes(observed),
        max_gap_s=max_gap_s(sample_fps=header.sample_fps, fps=header.fps),
    )
    rows = len(observed)
    columns: dict[str, Any] = {name: observed[name] for name in observed.column_names}
    columns["track"] = pa.array(tracks, pa.int32())
    for name, value in zip(_MODEL_COLUMNS, asdict(header.model).values(), strict=True):
        columns[name] = pa.array([value] * rows, pa.string())
    described = schema.with_metadata({_METADATA_KEY: json.dumps(asdict(header)).encode("utf-8")})
    return pa.Table.from_arrays([_whole(columns[name]) for name in schema.names], schema=described)


def write(table: pa.Table, out: Path) -> None:
    """Write a timeline whole or not at all."""
    with atomic.new_file(out) as work:
        pq.write_table(table, work, compression="zstd")


def read(path: Path) -> tuple[pa.Table, Header]:
    """Return a timeline and its header; raises `VideoError` where the file is no timeline."""
    header = read_header(path)
    try:
        return pq.read_table(path), header
    except (OSError, pa.ArrowException) as error:
        raise _no_timeline(path) from error


def read_header(path: Path) -> Header:
    """Return what a timeline says about itself without its rows; raises `VideoError` as `read` does."""
    try:
        raw = json.loads(pq.read_schema(path).metadata[_METADATA_KEY])
        model = ScoringModel(**raw.pop("model"))
        return Header(**raw | {"classes": tuple(raw["classes"]), "model": model})
    except (OSError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_timeline(path) from error


def _no_timeline(path: Path) -> VideoError:
    return VideoError(f"{path}: no timeline of `maskfer score`; score the video again")


def _boxes(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    flat = _whole(table["box"]).flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, 4)


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
