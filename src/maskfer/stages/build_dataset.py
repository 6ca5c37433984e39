"""The dataset's stages in one go: raw photographs become `faces.parquet` and one `rejects.csv`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from maskfer.config import Params
from maskfer.data import rejects as rejected
from maskfer.data.summary import Summary
from maskfer.data.table import FILE_NAME
from maskfer.stages import align, ingest, wear_masks


def run(raw: Path, out: Path, *, params: Params, masks: bool = True, workers: int | None = None) -> Summary:
    """Run ingest, align and, if `masks`, wear_masks; write `out/faces.parquet` and `out/rejects.csv`.

    Both files appear when everything is done; until then, and after a failure, `out` is what it was.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        work = Path(scratch)
        records, aligned, worn, done = (work / name for name in ("records", "aligned", "worn", "done"))
        counted = ingest.run(raw, records, params=params)
        align.run(records, aligned, raw=raw, params=params, workers=workers)
        folders = [records, aligned]
        if masks:
            wear_masks.run(aligned, worn, params=params, workers=workers)
            folders.append(worn)
        done.mkdir()
        (folders[-1] / FILE_NAME).replace(done / FILE_NAME)
        rejects = [row for folder in folders for row in rejected.read_rejects(folder / rejected.FILE_NAME)]
        rejected.write_rejects(done / rejected.FILE_NAME, rejects)
        summary = Summary.of(done)
        assert summary.images == counted.images
        out.mkdir(exist_ok=True)
        for name in (FILE_NAME, rejected.FILE_NAME):
            (done / name).replace(out / name)
    return summary
