"""`maskfer bench serving`: the scoring service as its clients meet it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskfer.cli.bench import bench

if TYPE_CHECKING:
    from maskfer.config import Settings
    from maskfer.release import Release
    from services.scoring.asks import Ask
    from services.scoring.benchmark import Checkpoint, Row
    from services.scoring.drive import Target
    from services.scoring.plain import PlainLoop

_MOST_CLIENTS = 1000
_MOST_CROPS = 100_000
_LEAST_SOAK = 200


@dataclass(frozen=True, slots=True)
class _Stand:
    """What is measured, and beside what."""

    target: Target
    pid: int | None
    """Of a service of our own."""
    release: Release | None
    plain: PlainLoop | None

    @property
    def crop_size(self) -> int:
        """Side of a crop, pixels; the default where the release is not known."""
        from maskfer.config import DataParams

        return DataParams().crop_size if self.release is None else self.release.crop_size

    def asks(self, crops: Sequence[int]) -> list[Ask]:
        """Return the kinds of requests, each answered well once."""
        from services.scoring.asks import check, crops_ask, picture_ask

        asks = [*(crops_ask(size, crop_size=self.crop_size) for size in crops), picture_ask()]
        for ask in asks:
            check(self.target, ask)
        return asks

    def measure(self, ask: Ask, *, clients: int, seconds: float, requests: int | None) -> Row:
        """Measure one row."""
        from services.scoring.benchmark import measure

        return measure(
            self.target,
            ask,
            clients=clients,
            seconds=seconds,
            requests=requests,
            plain=self.plain,
            pid=self.pid,
        )

    def soak(self, *, clients: int, requests: int) -> list[Checkpoint]:
        """Print the memory while it grows, or does not."""
        from services.scoring.benchmark import slope_mib, soak

        assert self.pid is not None
        checkpoints = []
        typer.echo(f"\n{'requests':>10}{'failed':>8}{'MiB':>9}")
        for checkpoint in soak(
            self.target, crop_size=self.crop_size, clients=clients, requests=requests, pid=self.pid
        ):
            checkpoints.append(checkpoint)
            typer.echo(f"{checkpoint.requests:>10}{checkpoint.failed:>8}{checkpoint.rss_mib:>9.1f}")
        typer.echo(f"{slope_mib(checkpoints):+.2f} MiB per 10,000 requests once settled")
        return checkpoints


@bench.command(
    epilog="Examples:\n\n`maskfer bench serving`\n\n"
    "`maskfer bench serving --model runs/release --clients 64 --crops 1 --seconds 20 --json serving.json`\n\n"
    "`maskfer bench serving --model runs/release --soak 50000`\n\n"
    "`maskfer bench serving --server http://10.0.0.5:3000`"
)
def serving(
    *,
    model: Annotated[
        str | None,
        typer.Option(help="Release folder, NAME@ALIAS or NAME@VERSION; the champion if left out."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="A running service instead of one of our own; --model then says what it runs."),
    ] = None,
    clients: Annotated[str, typer.Option(help="Numbers of clients, separated by commas.")] = "1,8,64",
    crops: Annotated[str, typer.Option(help="Crops per request, separated by commas.")] = "1,16",
    seconds: Annotated[
        float, typer.Option(min=0.3, help="For each row, and as long for the plain loop.")
    ] = 6.0,
    requests: Annotated[int | None, typer.Option(min=1, help="For each row, instead of --seconds.")] = None,
    soak: Annotated[
        int | None, typer.Option(min=_LEAST_SOAK, help="Then send so many requests and watch the memory.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure the scoring service over HTTP: faces per second, latency, memory, share of the plain model."""
    import itertools
    import json

    from maskfer import atomic
    from maskfer.config import Settings
    from maskfer.errors import InputError

    numbers = _numbers("--clients", clients, most=_MOST_CLIENTS)
    sizes = _numbers("--crops", crops, most=_MOST_CROPS)
    if soak is not None and server is not None:
        raise InputError("--soak reads the memory of a service of its own; leave --server out")
    rows: list[Row] = []
    checkpoints: list[Checkpoint] = []
    with _stand(model, server, Settings.load()) as stand:
        asks = stand.asks(sizes)
        typer.echo(_head(stand))
        for ask, number in itertools.product(asks, numbers):
            rows.append(stand.measure(ask, clients=number, seconds=seconds, requests=requests))
            typer.echo(_line(rows[-1]))
        if soak is not None:
            checkpoints = stand.soak(clients=max(numbers), requests=soak)
        if json_file is not None:
            atomic.write_text(json_file, json.dumps(_figures(stand, rows, checkpoints), indent=2) + "\n")


@contextmanager
def _stand(model: str | None, server: str | None, settings: Settings) -> Iterator[_Stand]:
    """Everything that a measurement needs, started for the length of the block."""
    import tempfile

    from maskfer.registry import open_release
    from services.scoring import launch
    from services.scoring.asks import picture_ask
    from services.scoring.drive import Target
    from services.scoring.plain import plain_loop

    target = Target.parse(server) if server is not None else None
    release = None
    if model is not None or target is None:
        release = open_release(model or f"{settings.model_name}@champion", settings=settings)
    with ExitStack() as stack:
        pid = None
        if target is None:
            assert release is not None
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="maskfer-bench-"))
            typer.echo("starting a service ...", err=True)
            pid, port = stack.enter_context(launch.serving(model=release.path, log=Path(work, "log")))
            target = Target.parse(f"http://127.0.0.1:{port}")
        plain = None
        if release is not None:
            plain = stack.enter_context(plain_loop(release.path, picture=picture_ask().bodies[0]))
        yield _Stand(target, pid, release, plain)


def _numbers(option: str, text: str, *, most: int) -> list[int]:
    """Parse `1,8,64`."""
    from maskfer.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise InputError(
            f"{option}: got {text!r}, expected whole numbers from 1 to {most} separated by commas, like 1,8"
        )
    return [int(part) for part in parts]


def _head(stand: _Stand) -> str:
    from services.scoring.batching import BATCH_FACES, cores

    what = f"release {stand.release.sha256[:12]}" if stand.release is not None else "release not given"
    return (
        f"{stand.target}, {what}; {cores()} cores, clients among them\n"
        f"plain: {cores()} loops at a time in a process of their own, batches of {BATCH_FACES} crops "
        "or one picture after the other; in turns with the service\n"
        f"{'':<10}{'clients':>8}{'requests':>10}{'failed':>8}{'faces/s':>10}{'p50 ms':>9}{'p95 ms':>9}"
        f"{'p99 ms':>9}{'plain':>9}{'share':>8}{'MiB before':>12}{'after':>8}"
    )


def _line(row: Row) -> str:
    def shown(value: float | None, width: int, form: str) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    failed = sum(row.failed.values())
    line = (
        f"{row.name:<10}{row.clients:>8}{row.requests:>10}{failed:>8}{row.faces_per_s:>10.1f}"
        + "".join(shown(value, 9, ".2f") for value in (row.p50_ms, row.p95_ms, row.p99_ms))
        + shown(row.plain_faces_per_s, 9, ".1f")
        + shown(row.share, 8, ".0%")
        + shown(row.rss_before_mib, 12, ".1f")
        + shown(row.rss_after_mib, 8, ".1f")
    )
    return line + "".join(f"  {count} x {status}" for status, count in row.failed.items())


def _figures(stand: _Stand, rows: Sequence[Row], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    from services.scoring.batching import BATCH_FACES, cores
    from services.scoring.benchmark import slope_mib

    figures: dict[str, Any] = {
        "server": str(stand.target),
        "release_sha256": None if stand.release is None else stand.release.sha256,
        "cores": cores(),
        "batch_faces": BATCH_FACES,
        "rows": [asdict(row) for row in rows],
    }
    if checkpoints:
        figures["soak"] = {
            "checkpoints": [asdict(checkpoint) for checkpoint in checkpoints],
            "slope_mib_per_10000_requests": slope_mib(checkpoints),
        }
    return figures
