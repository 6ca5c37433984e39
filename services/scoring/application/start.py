"""Puts the live application together and runs it."""

from __future__ import annotations

import sys
import uuid
from contextlib import closing
from pathlib import Path

from maskfer.faces.detect import default_detector
from services.scoring.application.display import open_display
from services.scoring.application.link import Link
from services.scoring.application.run import LiveApplication
from services.scoring.application.source import CameraSource, Source, VideoSource
from services.scoring.protocol import Hello


def run_live(
    picture_source: Path | int, *, server: str, fast: bool, terminal: bool, consent: bool, token: str | None
) -> None:
    """Run until a video ends, the window is closed or Ctrl-C, then say what happened.

    `picture_source` is a video file or a camera's number. Raises what `Link`, the sources and the loop raise.
    """
    session = str(uuid.uuid4())
    source: Source
    if isinstance(picture_source, Path):
        source = VideoSource(picture_source, fast=fast)
    else:
        source = CameraSource(picture_source)
    with closing(source), closing(Link(server, Hello(session, consent=consent, token=token))) as link:
        detector = default_detector()
        with closing(open_display(terminal=terminal, title=f"maskfer live  {server}")) as display:
            link.say = display.say
            if consent:
                display.say(f"statistics: {server.rstrip('/')}/statistics/{session}")
            application = LiveApplication(source, link, display, detector)
            application.run()
    print(f"live: {application.summary()}", file=sys.stderr)  # noqa: T201
