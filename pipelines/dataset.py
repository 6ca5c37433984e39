"""The faces table to train on: as given, or built from raw photographs once per content."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from maskfer import provenance
from maskfer.config import Params, Settings
from maskfer.data import rejects
from maskfer.data.files import files_below
from maskfer.data.table import FILE_NAME, require_trainable
from maskfer.errors import DatasetError
from maskfer.stages import build_dataset
from pipelines.watch import Step


def faces_table(
    data: Path, *, params: Params, settings: Settings, say: Callable[[str], None]
) -> tuple[Path, tuple[Step, ...]]:
    """Return the faces table of `data` and the steps that made it.

    `data` is a faces table, a folder that holds one, or raw photographs; from those a dataset is built under
    `Settings.home`, once for their content, the parameters and the code. Raises `DatasetError` where there is
    nothing at `data`, or a table that is damaged, or not to be trained on and judged by.
    """
    given = data if data.suffix == ".parquet" else data / FILE_NAME
    if given.is_file():
        _check(given, params)
        return given, ()
    if not data.is_dir():
        raise DatasetError(f"{data}: no such folder; give --data photographs or a folder with {FILE_NAME}")
    folder = settings.home.resolve() / "datasets" / _key(data, params)
    table, start = folder / FILE_NAME, time.monotonic()
    if table.is_file() and (folder / rejects.FILE_NAME).is_file():
        say(f"build_dataset: cached in {folder}")
        _check(table, params)
        return table, (Step("build_dataset", None),)
    say("build_dataset: running")
    summary = build_dataset.run(data, folder, params=params)
    seconds = time.monotonic() - start
    say(
        f"build_dataset: done after {seconds:.1f} s: {summary.images} images = {summary.faces} faces + "
        f"{summary.rejects} rejected, in {folder}"
    )
    _check(table, params)
    return table, (Step("build_dataset", seconds),)


def _check(path: Path, params: Params) -> None:
    # What cannot be trained on, or not judged by, is known here, not after hours of training.
    require_trainable(path, data=params.data, classes=params.classes)


def _key(raw: Path, params: Params) -> str:
    digest = hashlib.sha256(provenance.dataset_code_sha256().encode())
    used = params.model_dump(mode="json", include={"seed", "classes", "data", "masking"})
    digest.update(json.dumps(used, sort_keys=True).encode())
    for file in files_below(raw):
        digest.update(os.fsencode(file.relative_to(raw).as_posix()) + b"\0")
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
