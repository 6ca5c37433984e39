"""`maskfer bench ...`: speed on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from maskfer.cli import app

bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
app.add_typer(bench, name="bench", rich_help_panel="Measure")


@bench.command(
    epilog="Examples:\n\n`maskfer bench awfm`\n\n"
    "`maskfer bench awfm --images photos --size 320 --count 1000 --json speed.json`"
)
def awfm(
    *,
    images: Annotated[
        Path | None, typer.Option(help="Folder of portraits; synthetic faces if left out.")
    ] = None,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Longer side, pixels.")] = 320,
    count: Annotated[int, typer.Option(min=2, help="Pictures.")] = 400,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if left out.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure the automatic wearing of masks: images per second of every part and of the whole command."""
    import json
    import tempfile

    from maskfer import atomic
    from maskfer.config import MaskingParams
    from maskfer.masking.measure import measure, write_resized

    with tempfile.TemporaryDirectory(prefix="maskfer-bench-") as work, _pictures(images, count) as pictures:
        portraits = Path(work, "portraits")
        portraits.mkdir()
        write_resized(pictures, portraits, side_px=size)
        speed = measure(
            portraits,
            Path(work, "masked"),
            params=MaskingParams(),
            side_px=size,
            workers=workers or os.cpu_count() or 1,
        )
    rows = [(f"{part} (one core)", value) for part, value in speed.parts.items() if part != "one core, all"]
    rows.append(("all parts (one core)", speed.parts["one core, all"]))
    rows.append((f"end to end ({speed.workers} workers)", speed.end_to_end))
    rows.append(("end to end with start-up", speed.end_to_end_cold))
    typer.echo(f"{speed.pictures} pictures, longer side {size} px")
    for name, value in rows:
        typer.echo(f"{name:<28}{value:>9.1f} images/s{1000 / value:>9.2f} ms")
    typer.echo(f"{'rejected':<28}{speed.rejected:>9} of {speed.pictures} ({speed.rejected_share:.2%})")
    if json_file is not None:
        atomic.write_text(json_file, json.dumps(speed.as_json(), indent=2) + "\n")


@contextmanager
def _pictures(folder: Path | None, count: int) -> Iterator[list[Path]]:
    """The first `count` pictures of a folder in a seeded order, or as many synthetic ones."""
    import tempfile

    import numpy as np

    from maskfer.errors import InputError
    from maskfer.masking.folder import SUFFIXES

    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give --images a folder of portraits")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"{folder}: no pictures; expected names ending in {', '.join(SUFFIXES)}")
        order = np.random.default_rng(0).permutation(len(found))[:count]
        yield [found[index] for index in sorted(order)]
        return
    from maskfer.data.synthetic import write_synthetic_dataset

    with tempfile.TemporaryDirectory(prefix="maskfer-bench-") as work:
        raw = Path(work, "raw")
        per_person = min(count, 15)
        people = -(-count // per_person)
        faces = list(write_synthetic_dataset(raw, people=people, per_person=per_person, seed=0))
        yield sorted((raw / "images").rglob("*.*"))[: min(count, len(faces))]
