"""The dataset's stages in one go: raw photographs become `faces.parquet` and one `rejects.csv`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from maskfer import atomic
from maskfer.config import Params
from maskfer.data import rejects as rejected
from maskfer.data.summary import Summary
from maskfer.data.table import FILE_NAME
from maskfer.stages import align, ingest, wear_masks


def run(raw: Path, out: Path, *, params: Params, masks: bool = True, workers: int | None = None) -> Summary:
    """Run ingest, align and, if `masks`, wear_masks; write `out/faces.parquet` and `out/rejects.csv`.

    Both files appear when everything is done; until then, and after a failure, `out` is what it was. Other
    files in it stay.
    """
    atomic.check_folder(out)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        work = Path(scratch)
        records, aligned, worn = (work / name for name in ("records", "aligned", "worn"))
        counted = ingest.run(raw, records, params=params)
        align.run(records, aligned, raw=raw, params=params, workers=workers)
        if masks:
            wear_masks.run(aligned, worn, params=params, workers=workers)
        done = worn if masks else aligned
        summary = Summary.of(done)
        assert summary.images == counted.images
        out.mkdir(exist_ok=True)
        for name in (FILE_NAME, rejected.FILE_NAME):
            (done / name).replace(out / name)
    return summary
