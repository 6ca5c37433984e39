"""Where pictures come from: a camera, or a video that plays at its own speed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import cv2

from maskfer.errors import InputError
from maskfer.faces.face import Image
from maskfer.footage.decode import probe, read_frames

_FIRST_PICTURE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a source."""

    index: int
    """Its number in the source, from 0."""
    time_s: float
    """When it is shown: since the start of the video, or of the camera."""
    image: Image


class Source(Protocol):
    """Gives the newest picture; what is not taken in time is gone."""

    patient: bool
    """Whether pictures wait until they are taken."""
    skipped: int
    """Pictures that were gone before they were asked for."""

    @property
    def ended(self) -> bool:
        """Whether no picture will come."""
        ...

    def newest(self) -> Shot | None:
        """Return the newest picture that was not given yet; None where there is none."""
        ...

    def close(self) -> None:
        """Let the device or file go."""
        ...


class VideoSource:
    """A video file at its own speed; with `fast` every frame of it, as soon as it is asked for.

    Raises `VideoError` where the file is missing, no video, or breaks off.
    """

    def __init__(self, path: Path, *, fast: bool) -> None:
        self.patient = fast
        self.skipped = 0
        video = probe(path)
        self._frames = read_frames(video, video.sample(None))
        self._held = next(self._frames, None)
        self._first_s = float(video.times_s[0])
        self._started_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the last frame was given."""
        return self._held is None

    def newest(self) -> Shot | None:
        """Return the frame that a player would show now, once."""
        now_s = time.monotonic()
        if self._started_s is None:
            self._started_s = now_s
        due_s = now_s - self._started_s + self._first_s
        shot: Shot | None = None
        while self._held is not None and (self.patient or self._held.time_s <= due_s):
            self.skipped += shot is not None
            shot = Shot(self._held.index, self._held.time_s, self._held.image)
            self._held = next(self._frames, None)
            if self.patient:
                break
        return shot

    def close(self) -> None:
        """Close the file."""
        self._held, self._frames = None, iter(())


class CameraSource:
    """A camera; a thread reads it all the time, so that the picture given is never an old one.

    Raises `InputError` where there is no such camera, or where it stops giving pictures.
    """

    patient = False

    def __init__(self, number: int) -> None:
        self._number = number
        self.skipped = 0
        # OpenCV has its own lines for a missing camera; ours is enough.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(
                f"live: there is no camera {number}, or another program has it; "
                "give another number with --camera, or a file with --video"
            )
        self._lock = threading.Lock()
        self._shot: Shot | None = None
        self._stopped = self._failed = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Never: a camera that stops is an error."""
        if self._failed and not self._stopped:
            raise InputError(f"live: camera {self._number} gives no more pictures; is it still plugged in?")
        return False

    def newest(self) -> Shot | None:
        """Return the picture that the camera gave last, once."""
        with self._lock:
            shot, self._shot = self._shot, None
        return shot

    def close(self) -> None:
        """Let the camera go."""
        self._stopped = True
        self._thread.join(_FIRST_PICTURE_S)

    def _read(self) -> None:
        started_s, index = time.monotonic(), 0
        while not self._stopped:
            given, image = self._capture.read()
            if not given or image is None:
                self._failed = True
                break
            with self._lock:
                self.skipped += self._shot is not None
                self._shot = Shot(index, time.monotonic() - started_s, image)
            index = (index + 1) % 2**32
        self._capture.release()
