"""A video file to frames with their presentation times.

Two passes with two tools. `probe` lets ffmpeg read the container without decoding it: the exact times of
all frames, and an honest answer whether the file is whole (OpenCV guesses the number of frames and ends a
truncated file in silence). `read_frames` decodes with OpenCV, which skips unwanted frames without converting
them and was the fastest here (docs/labeling.md).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import imageio_ffmpeg
import numpy as np
from jaxtyping import Float64, Int64

from maskfer.errors import VideoError
from maskfer.faces.face import Image

FrameTimes = Float64[np.ndarray, " frames"]
FrameIndices = Int64[np.ndarray, " wanted"]

_CORRUPT: Final = 0x2
_DISCARD: Final = 0x4
"""Packet flags of libavformat: damaged; decoded but not shown (the lead-in of an edit list)."""

_TRUNCATED: Final = re.compile(r"partial file|ended prematurely|corrupt input packet|Packet corrupt")
_NO_TIME: Final = -1e9
"""A packet time below this is libavformat's "unset", seconds."""
_SAME_TIME_S: Final = 1e-3
_SEEK_BACK_S: Final = (0.5, 5.0, 60.0)
"""How far before a frame to jump in search of a point from which it decodes."""


@dataclass(frozen=True, slots=True)
class Video:
    """What a whole, decodable file holds."""

    path: Path
    times_s: FrameTimes
    """When each shown frame is shown, as a player's clock counts; strictly ascending."""
    width: int
    """Pixels, as shown (after the file's rotation)."""
    height: int

    @property
    def frames(self) -> int:
        """Number of frames shown."""
        return len(self.times_s)

    @property
    def fps(self) -> float:
        """Mean frame rate; 0 for a file of a single frame."""
        span_s = float(self.times_s[-1] - self.times_s[0])
        return (self.frames - 1) / span_s if span_s > 0 else 0.0

    def sample(self, fps: float | None) -> FrameIndices:
        """Return the frames nearest after each tick of `fps` per second; all of them for None.

        The choice depends on the file alone, so that segments agree about it however the file is cut.
        """
        if fps is None or self.frames == 1:
            return np.arange(self.frames)
        since_start = self.times_s - self.times_s[0]
        ticks = np.arange(0.0, since_start[-1] + _SAME_TIME_S, 1.0 / fps)
        found = np.searchsorted(since_start, ticks - _SAME_TIME_S)
        return np.unique(found[found < self.frames]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame."""

    index: int
    """Its number among the shown frames, from 0."""
    time_s: float
    image: Image


def probe(path: Path) -> Video:
    """Read the times of all frames without decoding them, and check that the file is whole.

    Raises `VideoError` where the file is missing, no video, without a frame or frame times, or breaks off,
    and where its name is not UTF-8.
    """
    _check_name(path)
    if not path.is_file():
        raise VideoError(f"{path}: no such file; give a video file")
    scan = _scan_packets(path)
    if scan.returncode < 0:
        raise VideoError(
            f"{path}: ffmpeg was ended by signal {-scan.returncode} while it read the file; look for a lack "
            "of memory, then try again"
        )
    times, corrupt_times = _packet_times(scan.stdout, path)
    warnings = scan.stderr.strip().splitlines()
    if scan.returncode != 0 and not len(times):
        reason = _reason(warnings)
        raise VideoError(f"{path}: not decodable as video ({reason}); check that the file is complete")
    if not len(times):
        raise VideoError(f"{path}: has no frame; check that the file is complete")
    broken = next((line for line in warnings if _TRUNCATED.search(line)), None)
    if len(corrupt_times) or broken is not None or scan.returncode != 0:
        said = broken or (warnings[-1] if warnings else f"ffmpeg ended with exit code {scan.returncode}")
        at_s = float(corrupt_times.min()) if len(corrupt_times) else float(times[-1])
        raise VideoError(
            f"{path}: breaks off at {at_s:.2f} s, frame {int(np.searchsorted(times, at_s))} "
            f"({_reason([said])}); the file is truncated or damaged, copy it again"
        )
    width, height = _shown_size(path)
    return Video(path, times, width, height)


def read_frames(video: Video, wanted: FrameIndices) -> Iterator[Frame]:
    """Decode the frames numbered `wanted` (ascending), in order; nothing else is converted or kept.

    A frame inside the file that the decoder drops is left out. Raises `VideoError` naming the time where
    decoding ends before the last wanted frame.
    """
    if not len(wanted):
        return
    capture = _open(video.path)
    try:
        yield from _read(capture, video, wanted)
    finally:
        capture.release()


def _read(capture: cv2.VideoCapture, video: Video, wanted: FrameIndices) -> Iterator[Frame]:
    grabbed_s = _seek(capture, video, float(video.times_s[wanted[0]]))
    last_s = grabbed_s
    for index in wanted.tolist():
        time_s = float(video.times_s[index])
        while grabbed_s is not None and grabbed_s < time_s - _SAME_TIME_S:
            last_s = grabbed_s
            grabbed_s = _grab(capture, video)
        if grabbed_s is None:
            raise VideoError(
                f"{video.path}: decoding ends at {last_s or 0.0:.2f} s, before frame {index} at "
                f"{time_s:.2f} s; the file is damaged, copy it again"
            )
        if grabbed_s <= time_s + _SAME_TIME_S:
            decoded, image = capture.retrieve()
            if decoded and image is not None:
                yield Frame(index, time_s, image)


def _seek(capture: cv2.VideoCapture, video: Video, time_s: float) -> float | None:
    """Stand on a frame at or before `time_s`; return its time, None where nothing decodes."""
    start_s = float(video.times_s[0])
    for back_s in _SEEK_BACK_S:
        target_s = time_s - back_s - start_s
        if target_s <= 0:
            break
        capture.set(cv2.CAP_PROP_POS_MSEC, target_s * 1000.0)
        at_s = _grab(capture, video)
        if at_s is not None and at_s <= time_s + _SAME_TIME_S:
            return at_s
    capture.release()
    capture.open(str(video.path), cv2.CAP_FFMPEG)
    return _grab(capture, video)


def _grab(capture: cv2.VideoCapture, video: Video) -> float | None:
    if not capture.grab():
        return None
    # OpenCV counts from the first frame; a player counts from the start of the file.
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0 + float(video.times_s[0])


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise VideoError(f"{path}: OpenCV cannot open it; convert it to H.264 in an MP4 file")
    return capture


def _check_name(path: Path) -> None:
    whole = path.absolute()  # as a worker gets it
    try:
        str(whole).encode("utf-8")
    except UnicodeEncodeError as error:
        # OpenCV does not refuse such a name but ends the process.
        readable = os.fsencode(whole).decode("utf-8", "backslashreplace")
        raise VideoError(f"{readable}: the name is not UTF-8, which OpenCV cannot open; rename it") from error


def _shown_size(path: Path) -> tuple[int, int]:
    capture = _open(path)
    try:
        decoded, image = capture.read()
        if not decoded or image is None:
            raise VideoError(f"{path}: its first frame does not decode; convert it to H.264 in an MP4 file")
        return int(image.shape[1]), int(image.shape[0])
    finally:
        capture.release()


def _scan_packets(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-hide_banner", "-nostdin", "-v", "warning"),
        # A playlist must not make ffmpeg fetch addresses or other files.
        *("-protocol_whitelist", "file", "-i", f"file:{path}"),
        *("-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-"),
    ]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _packet_times(listing: str, path: Path) -> tuple[FrameTimes, FrameTimes]:
    """Parse ffmpeg's framecrc listing: times of the shown frames and, of these, of the damaged ones."""
    unit_s = 0.0
    shown: list[float] = []
    corrupt: list[float] = []
    for line in listing.splitlines():
        if line.startswith("#tb 0:"):
            numerator, denominator = line.split(":")[1].split("/")
            unit_s = int(numerator) / int(denominator)
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(",")]
        flags = next((int(field[2:], 16) for field in fields[6:] if field.startswith("F=")), 0)
        if flags & _DISCARD:
            continue
        shown.append(int(fields[2]) * unit_s)
        if flags & _CORRUPT:
            corrupt.append(shown[-1])
    times = np.unique(np.asarray(shown, np.float64))
    if len(times) and times[0] < _NO_TIME:
        raise VideoError(f"{path}: states no frame times; remux or convert it, e.g. to H.264 in an MP4 file")
    return times, np.asarray(corrupt, np.float64)


def _reason(warnings: list[str]) -> str:
    """The first line of ffmpeg's complaint, without the addresses it prefixes."""
    if not warnings or any("matches no streams" in line for line in warnings):
        return "no video stream"
    return re.sub(r"^\[[^\]]*\]\s*", "", warnings[0]).rstrip(". ")
