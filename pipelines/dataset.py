"""The faces table to train on: as given, or built from raw photographs once per content."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from maskfer import provenance
from maskfer.config import Params, Settings
from maskfer.errors import DatasetError
from maskfer.stages import align, ingest, wear_masks
from pipelines.watch import Step

TABLE: Final = "faces.parquet"


def faces_table(
    data: Path, *, params: Params, settings: Settings, say: Callable[[str], None]
) -> tuple[Path, tuple[Step, ...]]:
    """Return the faces table of `data` and the steps that made it.

    `data` is a faces table, a folder that holds one, or raw photographs; those are ingested, aligned and
    given masks under `Settings.home`, once for their content, parameters and code. Raises `DatasetError`
    where there is nothing at `data`.
    """
    if data.is_file() and data.suffix == ".parquet":
        return data, ()
    if (data / TABLE).is_file():
        return data / TABLE, ()
    if not data.is_dir():
        raise DatasetError(f"{data}: no such folder; give --data photographs or a folder with {TABLE}")
    folder = settings.home.resolve() / "datasets" / _key(data, params)
    steps = (
        _step("ingest", folder / "records", lambda out: ingest.run(data, out, params=params), say),
        _step(
            "align",
            folder / "aligned",
            lambda out: align.run(folder / "records", out, raw=data, params=params),
            say,
        ),
        _step(
            "wear_masks",
            folder / "faces",
            lambda out: wear_masks.run(folder / "aligned", out, params=params),
            say,
        ),
    )
    return folder / "faces" / TABLE, steps


def _step(name: str, out: Path, make: Callable[[Path], object], say: Callable[[str], None]) -> Step:
    # A stage's folder appears whole or not at all, so a folder that is there is finished.
    if out.is_dir():
        say(f"{name}: cached")
        return Step(name, None)
    say(f"{name}: running")
    start = time.monotonic()
    make(out)
    seconds = time.monotonic() - start
    say(f"{name}: done after {seconds:.1f} s")
    return Step(name, seconds)


def _key(raw: Path, params: Params) -> str:
    digest = hashlib.sha256(provenance.dataset_code_sha256().encode())
    used = params.model_dump(mode="json", include={"seed", "classes", "data", "masking"})
    digest.update(json.dumps(used, sort_keys=True).encode())
    for file in sorted(path for path in raw.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(raw).as_posix()}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
