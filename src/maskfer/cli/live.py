"""`maskfer live`: a camera or a video through the scoring service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli import app


@app.command(
    epilog="Examples:\n\n`maskfer live`\n\n`maskfer live --camera 1 --server https://faces.example.org`\n\n"
    "`maskfer live --video clip.mp4 --terminal`\n\n`maskfer live --video clip.mp4 --fast > readings.jsonl`",
    rich_help_panel="Answer",
)
def live(
    camera: Annotated[
        int | None, typer.Option(min=0, help="Number of the camera; 0 unless --video is given.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A video file instead of a camera.")] = None,
    server: Annotated[str, typer.Option(help="Address of the scoring service.")] = "http://127.0.0.1:3000",
    fast: Annotated[
        bool, typer.Option("--fast", help="With --video: every frame, as fast as the service answers.")
    ] = False,
    terminal: Annotated[bool, typer.Option("--terminal", help="Draw in the terminal, no window.")] = False,
    consent: Annotated[
        bool, typer.Option("--consent", help="Let the service keep statistics of this session.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(envvar="MASKFER_TOKEN", help="Token, where the service wants one.")
    ] = None,
) -> None:
    """Show expression, mask and direction of the faces before a camera; only their crops leave this machine.

    Draws in a window, without a screen in the terminal; where the output is no terminal it prints a line of
    JSON for each frame. Comes back by itself when the connection drops. Ctrl-C ends it.
    """
    from maskfer.errors import InputError
    from services.scoring.application.start import run_live

    if video is not None and camera is not None:
        raise InputError("live: --camera and --video exclude each other; give one of them")
    if fast and video is None:
        raise InputError("live: --fast is for --video; a camera has its own speed")
    run_live(
        video if video is not None else camera or 0,
        server=server,
        fast=fast,
        terminal=terminal,
        consent=consent,
        token=token,
    )
