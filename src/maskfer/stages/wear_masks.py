"""Stage `wear_masks`: a masked twin of every face (AWFM), pixel by pixel aligned with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from maskfer import atomic
from maskfer.config import Params
from maskfer.data import rejects as rejected
from maskfer.data.rejects import Reject
from maskfer.data.table import (
    FILE_NAME,
    FacesTable,
    decode_image,
    encode_image,
    encode_region,
    write_faces,
)
from maskfer.labels import Orientation
from maskfer.masking.templates import MaskStyle
from maskfer.masking.wear import CannotWear, wear_mask
from maskfer.parallel import map_in_processes

STAGE: Final = "wear_masks"
TWIN_SUFFIX: Final = "-m"
_HOLDS: Final = (FILE_NAME, rejected.FILE_NAME)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WearMasksReport:
    """Counts that add up: faces = twins + rejected + already_masked."""

    twins: int
    rejected: int
    already_masked: int
    """Photographs of people who really wear a mask: they are kept and get no twin."""
    types: Mapping[str, int]

    @property
    def faces(self) -> int:
        """Faces that came in, twins not counted."""
        return self.twins + self.rejected + self.already_masked


def run(faces: Path, out: Path, *, params: Params, workers: int | None = None) -> WearMasksReport:
    """Read `faces/faces.parquet`; write it with twins to `out/faces.parquet`, and `out/rejects.csv`.

    A face that cannot wear a mask is left out altogether, so that the masked and the unmasked faces of a
    table are the same people. Twins that the table has already are drawn anew; what `faces/rejects.csv` lists
    stays listed. The same input gives the same bytes for any number of workers. Raises `InputError` where
    `out` holds other files or the input.
    """
    atomic.check_replaceable(out, holds=_HOLDS, inputs=(faces,))
    table, earlier = FacesTable.read(faces / FILE_NAME), rejected.read_rejects(faces / rejected.FILE_NAME)
    rows: list[Row] = [row for row in table.table.to_pylist() if row["mask_origin"] != "drawn"]
    bare = [row for row in rows if not row["is_masked"]]
    draw = partial(draw_twin, params=params)
    twins = dict(
        zip(
            (row["face_id"] for row in bare),
            map_in_processes(draw, bare, title="wear masks", workers=workers),
            strict=True,
        )
    )
    rejects = [
        Reject(row["source"], STAGE, twin) for row in bare if isinstance(twin := twins[row["face_id"]], str)
    ]
    report = WearMasksReport(
        twins=len(bare) - len(rejects),
        rejected=len(rejects),
        already_masked=len(rows) - len(bare),
        types=Counter(twin["mask_type"] for twin in twins.values() if not isinstance(twin, str)),
    )
    assert report.faces == len(rows)
    metadata = {**table.metadata, "twins": True, "masking": params.masking.model_dump(mode="json")}
    with atomic.new_folder(out, holds=_HOLDS) as work:
        write_faces(work / FILE_NAME, _with_twins(rows, twins), metadata=metadata)
        rejected.write_rejects(work / rejected.FILE_NAME, [*earlier, *rejects])
    return report


def draw_twin(face: Row, *, params: Params) -> Row | str:
    """Return the columns in which a face's twin differs from it, or why it cannot wear a mask."""
    if face["landmarks"] is None:
        return "the face has no landmarks"
    crop = decode_image(face["image"], flags=cv2.IMREAD_COLOR, where=f"face {face['face_id']}")
    landmarks = np.array(face["landmarks"], np.float32).reshape(-1, 2)
    # By face, not by position: a twin stays the same whatever is added to the dataset or runs beside it.
    rng = np.random.default_rng([params.seed, *face["face_id"].encode("ascii")])
    style = MaskStyle.random(params.masking, rng)
    try:
        worn, region = wear_mask(crop, landmarks, Orientation(face["orientation"]), style=style, rng=rng)
    except CannotWear as error:
        return str(error)
    return {
        "face_id": face["face_id"] + TWIN_SUFFIX,
        "is_masked": True,
        "mask_origin": "drawn",
        "mask_type": style.type,
        "mask_color": style.color,
        "twin_id": face["face_id"],
        "image": encode_image(worn, quality=params.data.image_quality),
        "mask_region": encode_region(region),
    }


def _with_twins(rows: list[Row], twins: Mapping[str, Row | str]) -> Iterator[Row]:
    for row in rows:
        twin = twins.get(row["face_id"])
        if isinstance(twin, str):
            continue
        yield row
        if twin is not None:
            yield {**row, **twin}
