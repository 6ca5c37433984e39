"""`maskfer bench ...`: speed on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskfer.cli import app

if TYPE_CHECKING:
    from maskfer.config import DataParams
    from maskfer.release import Description

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


@bench.command(
    epilog="Examples:\n\n`maskfer bench heatmap`\n\n"
    "`maskfer bench heatmap --model out/release --data dataset --faces 100 --json heatmap.json`"
)
def heatmap(
    *,
    model: Annotated[
        str | None,
        typer.Option(help="NAME@champion, NAME@v3, or a release folder; the champion if left out."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with faces.parquet, whose test people are used; else synthetic faces."),
    ] = None,
    faces: Annotated[int, typer.Option(min=2, help="Masked faces; each brings its unmasked twin.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the ways are timed in turn.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Compare the released heatmap of one pass with the exact map and with captum's: time and quality."""
    import json

    from maskfer import atomic
    from maskfer.config import Settings
    from maskfer.learning.faces import load
    from maskfer.learning.measure import compare_heatmaps
    from maskfer.registry import open_release

    settings = Settings.load()
    release = open_release(model or f"{settings.model_name}@champion", settings=settings)
    with _faces_table(data, faces, release.metadata) as (table, split):
        found = load(table, split=split, classes=release.classes, data=_crop_of(release.metadata))
        compared = compare_heatmaps(release, found, count=faces, rounds=rounds)
    typer.echo(
        f"{compared.masked_faces} masked faces and their unmasked twins; patch {compared.patch}, stride "
        f"{compared.stride}; one thread, median of {compared.rounds} rounds"
    )
    typer.echo(f"{'':<24}{'ms a face':>10}{'times faster':>14}{'correlation':>13}{'IoU':>8}{'unmasked':>10}")
    for name, way in compared.ways.items():
        typer.echo(
            f"{name:<24}{way.ms_per_face:>10.3f}{way.times_faster:>14.1f}{way.correlation:>13.3f}"
            f"{way.iou:>8.3f}{way.heat_unmasked:>10.3f}"
        )
    typer.echo(
        f"times faster: than captum with {compared.captum_per_pass} patches a pass; correlation: with the "
        "exact map;\nIoU: with the drawn mask; unmasked: share of a face without a mask that is called mask"
    )
    if json_file is not None:
        atomic.write_text(json_file, json.dumps(compared.as_json(), indent=2) + "\n")


@contextmanager
def _faces_table(
    folder: Path | None, count: int, description: Description
) -> Iterator[tuple[Path, str | None]]:
    """A faces table and which split of it to use; without a folder `count` synthetic faces, masked too."""
    import tempfile

    if folder is not None:
        yield folder / "faces.parquet", "test"
        return
    from maskfer.config import Params
    from maskfer.stages import build_dataset

    crop = _crop_of(description)
    with tempfile.TemporaryDirectory(prefix="maskfer-bench-") as work, _pictures(None, count) as pictures:
        build_dataset.run(pictures[0].parents[1], Path(work, "faces"), params=Params(data=crop))
        yield Path(work, "faces", "faces.parquet"), None


def _crop_of(description: Description) -> DataParams:
    from maskfer.config import DataParams

    return DataParams(crop_size=description.crop_size, crop_context=description.crop_context)
