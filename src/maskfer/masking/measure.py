"""How fast AWFM is, part by part and end to end, on pictures the caller brings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import cv2

from maskfer.config import MaskingParams
from maskfer.errors import InputError
from maskfer.masking.folder import (
    FolderReport,
    decode_picture,
    encode_picture,
    keep_freed_memory,
    mask_folder,
)
from maskfer.masking.picture import MaskWearer, StyleChoice

_T = TypeVar("_T")
_SAMPLE: Final = 200
"""Pictures on which each part is timed."""


@dataclass(frozen=True, slots=True)
class AwfmSpeed:
    """Images per second of each part on one core, and of the whole command."""

    pictures: int
    side_px: int
    workers: int
    parts: dict[str, float]
    """One core, one picture after another: decode, detect, landmarks, render, encode, and all of them."""
    end_to_end: float
    """The command with its worker processes, files read and written, their start left out."""
    end_to_end_cold: float
    """The same with the start of the workers, 2 to 3 s, in it."""
    rejected: int
    rejected_share: float

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return asdict(self)


def write_resized(pictures: Iterable[Path], folder: Path, *, side_px: int) -> int:
    """Write each picture as JPEG with its longer side `side_px` into `folder`; returns how many.

    Raises `ImageError` for a file that is no picture.
    """
    count = 0
    for count, path in enumerate(pictures, start=1):
        picture = decode_picture(path.read_bytes())
        scale = side_px / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        (folder / f"{count:06d}.jpg").write_bytes(
            encode_picture(cv2.resize(picture[..., :3], size, interpolation=method), ".jpg")
        )
    return count


def measure(folder: Path, out: Path, *, params: MaskingParams, side_px: int, workers: int) -> AwfmSpeed:
    """Time AWFM on the JPEGs in `folder`; the masked pictures go to `out`."""
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise InputError(f"{folder}: no pictures to measure with")
    parts = _measure_parts(files[:: max(1, len(files) // _SAMPLE)], params)
    marks: list[tuple[float, int]] = [(time.perf_counter(), 0)]
    report: FolderReport = mask_folder(
        folder,
        out,
        params=params,
        choice=StyleChoice(),
        seed=0,
        workers=workers,
        progress=lambda done, _: marks.append((time.perf_counter(), done)),
    )
    end = time.perf_counter()
    # The first chunks to arrive pay for the workers' start: from there on it is the steady speed.
    first = min(len(marks) - 2, workers)
    steady = (marks[-1][1] - marks[first][1]) / max(marks[-1][0] - marks[first][0], 1e-9)
    return AwfmSpeed(
        pictures=report.pictures,
        side_px=side_px,
        workers=workers,
        parts=parts,
        end_to_end=steady,
        end_to_end_cold=report.pictures / (end - marks[0][0]),
        rejected=report.rejected,
        rejected_share=report.rejected / report.pictures,
    )


def _measure_parts(files: list[Path], params: MaskingParams) -> dict[str, float]:
    keep_freed_memory()
    wearer = MaskWearer(params=params, choice=StyleChoice(), seed=0)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        seconds: dict[str, float] = {}
        pictures = _timed("decode", seconds, lambda: [decode_picture(path.read_bytes()) for path in files])
        images = [p if p.ndim == 3 else cv2.cvtColor(p, cv2.COLOR_GRAY2BGR) for p in pictures]
        found = _timed("detect", seconds, lambda: [wearer.find_faces(image) for image in images])
        pairs = list(zip(images, found, strict=True))
        placed = _timed("landmarks", seconds, lambda: [wearer.place(image, faces) for image, faces in pairs])
        jobs = [
            partial(wearer.dress, image, faces, points, name=path.name)
            for (image, faces), points, path in zip(pairs, placed, files, strict=True)
        ]
        for job in jobs[:40]:  # the templates are drawn once and kept
            job()
        worn = _timed("render", seconds, lambda: [job().image for job in jobs])
        _timed("encode", seconds, lambda: [encode_picture(image, ".jpg") for image in worn])
    finally:
        cv2.setNumThreads(threads)
    seconds["one core, all"] = sum(seconds.values())
    return {part: len(files) / max(value, 1e-9) for part, value in seconds.items()}


def _timed(part: str, seconds: dict[str, float], work: Callable[[], _T]) -> _T:
    start = time.perf_counter()
    result = work()
    seconds[part] = time.perf_counter() - start
    return result
