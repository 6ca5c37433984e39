"""Stage `ingest`: a raw folder becomes records with their split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maskfer import atomic
from maskfer.config import Params
from maskfer.data.ingest import Record, read_raw
from maskfer.data.rejects import FILE_NAME, write_rejects
from maskfer.data.split import split_records

RECORDS = "records.parquet"
_HOLDS = (RECORDS, FILE_NAME)
_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("person", pa.string()),
        pa.field("emotion", pa.string()),
        pa.field("expression", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_masked", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts that add up: images = records + rejected."""

    records: int
    rejected: int

    @property
    def images(self) -> int:
        """Images that the raw folder names."""
        return self.records + self.rejected


def run(raw: Path, out: Path, *, params: Params) -> IngestReport:
    """Read `raw`, write `out/records.parquet` and `out/rejects.csv`.

    Raises `InputError` where `out` holds other files or the photographs.
    """
    atomic.check_replaceable(out, holds=_HOLDS, inputs=(raw,))
    records, rejects = read_raw(raw, classes=params.classes)
    data = params.data
    records = split_records(records, val=data.val_fraction, test=data.test_fraction, seed=params.seed)
    with atomic.new_folder(out, holds=_HOLDS) as work:
        table = pa.Table.from_pylist([asdict(record) for record in records], schema=_SCHEMA)
        pq.write_table(table, work / RECORDS)
        write_rejects(work / FILE_NAME, rejects)
    return IngestReport(records=len(records), rejected=len(rejects))


def read_records(folder: Path) -> list[Record]:
    """Read the records that `run` wrote."""
    return [Record(**row) for row in pq.read_table(folder / RECORDS).to_pylist()]
