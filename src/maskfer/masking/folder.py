"""A folder of pictures gets masks: the same tree comes out, and whatever could not be masked is listed."""

from __future__ import annotations

import csv
import ctypes
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import UInt8

from maskfer.config import MaskingParams
from maskfer.errors import ImageError, InputError, MaskferError
from maskfer.masking import written
from maskfer.masking.picture import MaskWearer, StyleChoice

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
REJECTS: Final = "rejects.csv"
REGION_SUFFIX: Final = ".region.png"
NO_FACE: Final = "no face found"

_QUALITY: Final = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
}
_CHUNK: Final = 8
"""Pictures per message to a worker."""
_WORTH_A_WORKER: Final = 24
"""Pictures below which another process takes longer to start than it saves."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As malloc.h numbers them."""
_KEPT_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class PictureResult:
    """What became of one picture."""

    name: str
    """Path relative to the input folder, with forward slashes."""
    masked: int
    """Faces that wear a mask in the written picture; 0 when none was written."""
    reasons: tuple[str, ...]
    """One per face that could not be masked, or one for the whole picture."""
    faces_rejected: int = 0
    """Faces that were found but not masked."""
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class FolderReport:
    """Counts that add up: `pictures == written + rejected`."""

    pictures: int
    written: int
    rejected: int
    """Pictures in which no face could be masked; all in rejects.csv."""
    unreadable: int
    """Of those rejected, files that are no picture."""
    faces_masked: int
    faces_rejected: int
    """Faces that were found but not masked."""
    skipped_files: int
    """Files whose name is not a picture's."""


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    out: Path
    params: MaskingParams
    choice: StyleChoice
    seed: int
    regions: bool
    known: written.Files
    """What earlier runs have written to `out`."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file of `out`, whole or not at all, once it is on the list there."""
        written.note(self.out, name, content, known=self.known)
        _write_whole(self.out / name, content)


def mask_folder(
    source: Path,
    out: Path,
    *,
    params: MaskingParams,
    choice: StyleChoice,
    seed: int,
    regions: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Mask all faces of all pictures under `source` (or of the one picture) into `out`, and list the rejects.

    Names, folders and formats stay; a picture of which no face could be masked is not written. The result
    does not depend on `workers` (None: one per core). `progress` gets how many pictures are done, and of how
    many. An `out` of an earlier run is written to again: what that wrote of these pictures is replaced or,
    where nothing takes its place, removed. Raises `InputError` when there is no picture, or when `out` would
    overwrite the input, holds what this command did not write, or takes no files.
    """
    root, names, skipped = _find_pictures(source, out)
    known = written.check(out, _targets(names, regions=regions) | _pictures_in(out, source))
    job = _Job(root, out, params, choice, seed, regions, known)
    results: list[PictureResult] = []
    for batch in _run(job, names, workers=workers):
        results += batch
        if progress is not None:
            progress(len(results), len(names))
    _remove_stale(job, results)
    if source.is_file() and not results[0].is_readable:
        raise ImageError(f"{source}: {results[0].reasons[0]}; expected one of {', '.join(SUFFIXES)}")
    try:
        job.write(REJECTS, _rejects(results))
    except OSError as error:
        raise InputError(f"{out / REJECTS}: cannot be written: {error.strerror}") from error
    masked = sum(result.masked > 0 for result in results)
    return FolderReport(
        pictures=len(results),
        written=masked,
        rejected=len(results) - masked,
        unreadable=sum(not result.is_readable for result in results),
        faces_masked=sum(result.masked for result in results),
        faces_rejected=sum(result.faces_rejected for result in results),
        skipped_files=skipped,
    )


def _find_pictures(source: Path, out: Path) -> tuple[Path, list[str], int]:
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{source}: suffix {source.suffix or 'none'} is not read; expected one of "
                f"{', '.join(SUFFIXES)}"
            )
        if (out / source.name).resolve() == source.resolve():
            raise InputError(
                f"{out}: the masked picture would overwrite {source}; name another folder for --out"
            )
        return source.parent, [source.name], 0
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder; give a picture or a folder of pictures")
    if out.resolve() == source.resolve():
        raise InputError(
            f"{out}: the masked pictures would overwrite the originals; name another folder for --out"
        )
    written.check_folder(out)
    inside = out.resolve()
    files = [path for path in source.rglob("*") if path.is_file() and inside not in path.resolve().parents]
    names = sorted(path.relative_to(source).as_posix() for path in files if path.suffix.lower() in SUFFIXES)
    if not names:
        raise InputError(
            f"{source}: no picture among {len(files)} files; expected names ending in {', '.join(SUFFIXES)}"
        )
    return source, names, len(files) - len(names)


def _pictures_in(out: Path, source: Path) -> set[str]:
    """Names of the pictures in an `out` below `source`; they are left out, so none may be an original."""
    if not out.resolve().is_relative_to(source.resolve()):
        return set()
    files = (path for path in out.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return {path.relative_to(out).as_posix() for path in files}


def _targets(names: Iterable[str], *, regions: bool) -> set[str]:
    """Names of all that may be written for pictures."""
    return {REJECTS, *names, *(name + REGION_SUFFIX for name in names if regions)}


def _remove_stale(job: _Job, results: list[PictureResult]) -> None:
    """Remove what earlier runs, or a write that failed halfway, left of these pictures."""
    done = _targets([result.name for result in results if result.masked > 0], regions=job.regions)
    written.remove(job.out, _targets([result.name for result in results], regions=True) - done)


def _run(job: _Job, names: list[str], *, workers: int | None) -> Iterator[list[PictureResult]]:
    chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    count = min(workers or os.cpu_count() or 1, max(1, len(names) // _WORTH_A_WORKER), len(chunks))
    if count == 1:
        wearer = _new_wearer(job)
        for chunk in chunks:
            yield [_mask_file(wearer, job, name) for name in chunk]
        return
    # spawn: a forked child would inherit OpenCV's threads in an unknown state.
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(job,)
    )
    try:
        futures: list[Future[list[PictureResult]]] = [pool.submit(_mask_chunk, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise MaskferError(
            "a worker process died, perhaps for want of memory; the pictures written so far are whole, "
            "try again with --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process keeps between chunks."""

    job: _Job
    wearer: MaskWearer


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees: drawing asks for the same few planes again and again.

    By default the C library gives planes of this size back to the system at once, and the page faults of the
    next picture cost a tenth of the drawing. Where the C library is not glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * _KEPT_BYTES)


def _start_worker(job: _Job) -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    keep_freed_memory()
    _Worker.job, _Worker.wearer = job, _new_wearer(job)


def _mask_chunk(names: list[str]) -> list[PictureResult]:
    return [_mask_file(_Worker.wearer, _Worker.job, name) for name in names]


def _new_wearer(job: _Job) -> MaskWearer:
    return MaskWearer(params=job.params, choice=job.choice, seed=job.seed)


def _mask_file(wearer: MaskWearer, job: _Job, name: str) -> PictureResult:
    """Mask one picture; whatever is odd about it is its own reject, and the others go on."""
    try:
        picture = decode_picture((job.source / name).read_bytes())
    except (OSError, ImageError) as error:
        return PictureResult(name, 0, (f"cannot be read: {error}",), is_readable=False)
    try:
        return _mask_picture(wearer, job, name, picture)
    except OSError as error:
        return PictureResult(name, 0, (f"cannot be written: {error.strerror}",))
    except ImageError as error:
        return PictureResult(name, 0, (f"cannot be written: {error}",))
    except cv2.error as error:
        return PictureResult(name, 0, (f"cannot be masked: OpenCV refuses it ({error.err})",))


def _mask_picture(wearer: MaskWearer, job: _Job, name: str, picture: UInt8[np.ndarray, ...]) -> PictureResult:
    color = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    alpha = color[..., 3:] if color.shape[2] == 4 else None
    worn = wearer.wear(np.ascontiguousarray(color[..., :3]), name=name)
    if worn.masked == 0:
        return PictureResult(name, 0, worn.reasons or (NO_FACE,), faces_rejected=len(worn.reasons))
    result = worn.image if alpha is None else np.concatenate([worn.image, alpha], axis=2)
    if picture.ndim == 2 and not wearer.keeps_color:
        result = result[..., 0]
    content = encode_picture(result, Path(name).suffix.lower())
    if job.regions:
        # First, as its name is the longer one: where it is too long nothing is written.
        region = worn.region.astype(np.uint8) * 255
        job.write(name + REGION_SUFFIX, encode_picture(region, ".png"))
    job.write(name, content)
    return PictureResult(name, worn.masked, worn.reasons, faces_rejected=len(worn.reasons))


def decode_picture(content: bytes) -> UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w channels"]:
    """Decode to grey, BGR or BGRA with 8 bits, turned upright as its EXIF says; raises `ImageError`."""
    buffer = np.frombuffer(content, np.uint8)
    if len(buffer) == 0:
        raise ImageError("the file is empty")
    try:
        picture = cv2.imdecode(buffer, cv2.IMREAD_ANYCOLOR)
        if picture is not None and content[:4] in (b"\x89PNG", b"RIFF"):
            # Only this flag keeps transparency, and with it OpenCV does not turn the picture.
            whole = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if whole is not None and whole.ndim == 3 and whole.shape[2] == 4 and whole.dtype == np.uint8:
                picture = _turned_like(np.asarray(picture), np.asarray(whole))
    except cv2.error as error:
        raise ImageError(f"OpenCV refuses it ({error.err})") from error
    if picture is None:
        raise ImageError("not a picture that OpenCV can decode")
    return np.asarray(picture)


def _turned_like(
    upright: UInt8[np.ndarray, "h w 3"], whole: UInt8[np.ndarray, "a b 4"]
) -> UInt8[np.ndarray, "h w 4"]:
    """Turn a picture with transparency as OpenCV turned the same one without, by its EXIF."""
    for mirrored in (whole, whole[:, ::-1]):
        for quarters in range(4):
            turned = np.rot90(mirrored, quarters)
            if np.array_equal(turned[..., :3], upright):
                return np.ascontiguousarray(turned)
    return whole


def encode_picture(picture: np.ndarray, suffix: str) -> bytes:
    """Encode in the format that a file suffix names, close to lossless."""
    done, content = cv2.imencode(suffix, picture, _QUALITY.get(suffix, []))
    if not done:
        raise ImageError(f"OpenCV cannot encode {picture.shape} as {suffix}")
    return content.tobytes()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `atomic` does, but without a folder to make and remove.

    That folder takes as long as a seventh of everything else here, and nobody else writes this name. It does
    not hold the file's, which may be as long as a name can be.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rejects(results: list[PictureResult]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "reason"))
    for result in sorted(results, key=lambda result: result.name):
        writer.writerows((result.name, reason) for reason in result.reasons)
    # A name that is not UTF-8 is listed too, its odd bytes escaped.
    return file.getvalue().encode("utf-8", errors="backslashreplace")
