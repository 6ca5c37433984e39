"""Clips for tests, drawn by the project and cut by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from maskfer.data.synthetic import clip_frames, write_clip


def film(out: Path, *, frames: int = 72, fps: float = 12.0, size: int = 192, seed: int = 7) -> Path:
    """Film one synthetic person who sways; few pictures are drawn, because drawing is slow."""
    drawn = [image for image, *_ in clip_frames(frames=3, fps=1.0, size=size, seed=seed)]
    steps = np.round(size / 16 * np.sin(np.arange(frames) / fps)).astype(int)
    shown = (np.roll(drawn[3 * i // frames], step, axis=1) for i, step in enumerate(steps))
    write_clip(out, shown, fps=fps)
    return out


def film_nobody(out: Path, *, frames: int = 24, fps: float = 12.0, size: int = 192) -> Path:
    """Film a wall: a gradient that moves."""
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    wall = np.repeat(np.tile(ramp, (size, 1))[..., None], 3, axis=2)
    write_clip(out, (np.roll(wall, 3 * i, axis=1) for i in range(frames)), fps=fps)
    return out


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg; the last argument is the file it writes."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-v", "error", "-y"]
    subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True)


def truncated(source: Path, out: Path, *, share: float = 0.5) -> Path:
    """Copy the first part of a video's bytes, with its index at the front so that the rest is missed."""
    whole = out.with_suffix(".whole.mp4")
    ffmpeg("-i", source, "-c", "copy", "-movflags", "faststart", whole)
    content = whole.read_bytes()
    out.write_bytes(content[: int(share * len(content))])
    whole.unlink()
    return out
