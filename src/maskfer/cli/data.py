"""`maskfer data`: build a dataset, look at it, draw a synthetic one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskfer.cli import app
from maskfer.cli.console import plain

if TYPE_CHECKING:
    import numpy as np

    from maskfer.data.summary import Summary

data = typer.Typer(no_args_is_help=True)
app.add_typer(
    data, name="data", help="Build a dataset, look at it, draw a synthetic one.", rich_help_panel="Data"
)

_ParamsFile = Annotated[
    Path | None, typer.Option(help="YAML like params.yaml; the defaults where none is given.")
]
_Workers = Annotated[int | None, typer.Option(min=1, help="Processes; one per core if left out.")]


@data.command(
    epilog="Examples:\n\n`maskfer data build photos --out dataset`\n\n"
    "`maskfer data build photos --out dataset --no-masks --params params.yaml`"
)
def build(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="A folder per class; images with a labels.csv; or train|eval/{positive,negative,neutral}.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for faces.parquet and rejects.csv.")],
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Give every face a masked twin.")] = True,
    params: _ParamsFile = None,
    workers: _Workers = None,
) -> None:
    """Turn labelled photographs into faces.parquet; what is dropped is in rejects.csv with its reason."""
    from maskfer.config import Params
    from maskfer.stages import build_dataset

    summary = build_dataset.run(raw, out, params=Params.load(params), masks=masks, workers=workers)
    _print(summary, title=str(out))


@data.command(epilog="Examples:\n\n`maskfer data show dataset`\n\n`maskfer data show dataset --json`")
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `maskfer data build` wrote.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what a dataset holds and what it dropped."""
    from maskfer.data.summary import Summary

    summary = Summary.of(folder)
    if as_json:
        typer.echo(json.dumps(_as_json(summary), indent=2))
    else:
        _print(summary, title=str(folder))


@data.command(
    epilog="Examples:\n\n`maskfer data synth --out raw`\n\n"
    "`maskfer data synth --out raw --people 100 --seed 3`"
)
def synth(
    out: Annotated[Path, typer.Option(help="New folder for images, labels.csv and truth.csv.")],
    *,
    people: Annotated[int, typer.Option(min=2)] = 24,
    per_person: Annotated[int, typer.Option(min=1, help="Pictures of each person.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 7,
    workers: _Workers = None,
) -> None:
    """Draw labelled synthetic faces: three expressions, five orientations, exact landmarks."""
    from maskfer.data.synthetic import write_synthetic_dataset

    faces = write_synthetic_dataset(out, people=people, per_person=per_person, seed=seed, workers=workers)
    count = sum(1 for _ in _watched(faces, total=people * per_person, title="draw faces"))
    typer.echo(f"{count} synthetic faces of {people} people -> {out}")


@data.command(
    epilog="Examples:\n\n`maskfer data clip --out clip.mp4`\n\n"
    "`maskfer data clip --out clip.mp4 --frames 250 --fps 25`"
)
def clip(
    out: Annotated[Path, typer.Option(help="MP4 file to write.")],
    *,
    frames: Annotated[int, typer.Option(min=1)] = 72,
    fps: Annotated[float, typer.Option(min=1, help="Frames per second.")] = 12.0,
    size: Annotated[int, typer.Option(min=96, max=1024, help="Side of the picture, pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same film.")] = 7,
    mask: Annotated[
        bool, typer.Option("--mask/--no-mask", help="Put a mask on for the clip's second half.")
    ] = True,
) -> None:
    """Film one synthetic person who changes expression, turns, and puts on a mask; it plays in browsers."""
    from maskfer.data.synthetic import write_clip

    film = _film(frames=frames, fps=fps, size=size, seed=seed, mask_from=frames // 2 if mask else frames)
    count = write_clip(out, _watched(film, total=frames, title="film"), fps=fps, codec="vp09")
    typer.echo(f"{count} frames at {fps:g} frames/s -> {out}")


def _film(*, frames: int, fps: float, size: int, seed: int, mask_from: int) -> Iterator[np.ndarray]:
    import numpy as np

    from maskfer.config import MaskingParams
    from maskfer.data.synthetic import clip_frames
    from maskfer.masking.templates import MaskStyle
    from maskfer.masking.wear import wear_mask

    style = MaskStyle.random(MaskingParams(), np.random.default_rng(seed))
    pictures = clip_frames(frames=frames, fps=fps, size=size, seed=seed)
    for index, (picture, landmarks, looks) in enumerate(pictures):
        if index < mask_from:
            yield picture
        else:
            # The same generator for every frame: one mask, worn all the time, does not flicker.
            rng = np.random.default_rng(seed)
            yield wear_mask(picture, landmarks, looks, style=style, rng=rng)[0]


def _watched(items: Iterator[Any], *, total: int, title: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(
        track(items, total=total, description=title, console=console, disable=not console.is_terminal)
    )


def _print(summary: Summary, *, title: str) -> None:
    from rich.table import Table

    from maskfer.data.summary import ORIGINS
    from maskfer.labels import ORIENTATIONS

    console = plain()
    labels = Table("split", "label", *ORIGINS.values(), title="Faces", title_justify="left")
    for split, label, *counts in summary.label_rows():
        labels.add_row(split, label, *map(str, counts))
    looks = Table("split", *ORIENTATIONS, title="Orientation (twins not counted)", title_justify="left")
    for split, counts_of in summary.orientation_rows():
        looks.add_row(split, *map(str, counts_of))
    console.print(labels, looks)
    if summary.mask_types:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.mask_types.items()))
        console.print(f"masks      {kinds}")
    if summary.reasons:
        reasons = Table("stage", "reason", "images", title="Rejected", title_justify="left")
        for (stage, reason), count in summary.reasons.items():
            reasons.add_row(stage, reason, str(count))
        console.print(reasons)
    console.print(
        f"{title}: {summary.images} images = {summary.faces} faces + {summary.rejects} rejected; "
        f"{summary.twins} masked twins; {summary.people or 'unknown'} people"
    )


def _as_json(summary: Summary) -> dict[str, Any]:
    from maskfer.data.summary import ORIGINS
    from maskfer.labels import ORIENTATIONS

    return {
        **{
            name: asdict(summary)[name]
            for name in ("images", "faces", "twins", "rejects", "people", "mask_types")
        },
        "labels": [
            {"split": split, "label": label, **dict(zip(ORIGINS, counts, strict=True))}
            for split, label, *counts in summary.label_rows()
        ],
        "orientations": {
            split: dict(zip(ORIENTATIONS, counts, strict=True))
            for split, counts in summary.orientation_rows()
        },
        "reasons": [
            {"stage": stage, "reason": reason, "images": count}
            for (stage, reason), count in summary.reasons.items()
        ],
    }
