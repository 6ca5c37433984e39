"""`maskfer serve`: the scoring service."""

from __future__ import annotations

from typing import Annotated

import typer

from maskfer.cli import app


@app.command(
    epilog="Examples:\n\n`maskfer serve`\n\n`maskfer serve --model runs/release --port 8080`\n\n"
    "`curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' localhost:3000/analyze`",
    rich_help_panel="Answer",
)
def serve(
    model: Annotated[
        str | None, typer.Option(help="Release folder, NAME@ALIAS or NAME@VERSION; the champion by default.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; MASKFER_SCORING_HOST or 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; MASKFER_SCORING_PORT or 3000.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Server processes.")] = 1,
) -> None:
    """Serve the champion until Ctrl-C: the live page at /, /analyze, /predict, /live, /readyz, /metrics."""
    from maskfer.config import Settings
    from services.scoring import launch

    settings = Settings.load()
    launch.serve(
        settings,
        model=model,
        host=host or settings.scoring_host,
        port=settings.scoring_port if port is None else port,
        workers=workers,
    )
