"""`maskfer demo`: the whole line on synthetic faces, by the same commands a user types.

Each step is a real `maskfer` process; service, broker and worker are real and are gone at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from maskfer import atomic
from maskfer.cli import app
from maskfer.cli.console import plain
from maskfer.errors import ServiceUnavailable, StageFailed

_PARAMS = """\
# The demo's parameters: as little training as still learns the synthetic faces. There are so few of them that
# the expression is learnt by layers that have seen other faces before; the rest are the defaults.
seed: 7
mask_classifier: {epochs: 10, batch_size: 32}
heatmap: {epochs: 10, batch_size: 32}
landmarks: {epochs: 12, batch_size: 32}
expression: {backbone: face_resnet, epochs: 8, batch_size: 32}
"""
_MARKER = ".maskfer-demo"
_HOLDS = (
    _MARKER,
    "params.yaml",
    "policy.yaml",
    "raw",
    "dataset",
    "home",
    "service.log",
    "clip.mp4",
    "scores",
)


@dataclass
class _Demo:
    """Runs steps in one folder and remembers what each took."""

    work: Path
    steps: list[tuple[str, float, str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment, with everything the demo keeps inside its own folder."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MASKFER_")}
        return inherited | {"MASKFER_HOME": str(self.work / "home")}

    def command(self, *arguments: str) -> list[str]:
        """The command line of one step, in this interpreter's environment."""
        return [str(Path(sys.executable).with_name("maskfer")), *arguments]

    def run(self, what: str, *arguments: str) -> None:
        """Run one step to its end with its output on the terminal."""
        self._announce(arguments)
        start = time.perf_counter()
        finished = subprocess.run(self.command(*arguments), env=self.environment, check=False)
        if finished.returncode != 0:
            raise StageFailed(
                f"demo: step '{what}' (maskfer {' '.join(arguments)}) ended with exit code "
                f"{finished.returncode}; its messages are above, its files under {self.work}"
            )
        self.steps.append((what, time.perf_counter() - start, "maskfer " + " ".join(arguments)))

    def read(self, *arguments: str) -> Any:
        """Run a `--json` command and return what it printed."""
        answer = subprocess.run(
            self.command(*arguments), env=self.environment, check=False, capture_output=True, text=True
        )
        if answer.returncode != 0:
            raise StageFailed(f"demo: maskfer {' '.join(arguments)}: {answer.stderr.strip()}")
        return json.loads(answer.stdout)

    @contextmanager
    def service(self) -> Iterator[str]:
        """Serve the champion on a free port; yields the base URL once it is ready, ends it afterwards."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = ("serve", "--port", str(port))
        self._announce(arguments)
        start = time.perf_counter()
        log = (self.work / "service.log").open("w")
        process = subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz", process, log=Path(log.name))
            self.steps.append(("serve", time.perf_counter() - start, "maskfer serve"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()

    def _announce(self, arguments: tuple[str, ...]) -> None:
        print(f"\n$ maskfer {' '.join(arguments)}", flush=True)  # noqa: T201


def _wait_until_ready(
    url: str, process: subprocess.Popen[bytes], *, log: Path, timeout_s: float = 90.0
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceUnavailable(f"demo: the service ended with {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise ServiceUnavailable(f"demo: {url} was not ready within {timeout_s:.0f} s; see {log}")


def _ask(base_url: str, picture: Path) -> tuple[dict[str, Any], str]:
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        f"{base_url}/analyze", data=picture.read_bytes()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer), answer.headers.get("X-Model-Version", "?")


def _policy() -> str:
    """Return the default policy, but that the fewest faces a demo may be asked to draw are enough."""
    from maskfer.promotion import PromotionPolicy

    overall = PromotionPolicy().overall.model_copy(update={"minimum_faces": 1})
    return json.dumps({"overall": overall.model_dump()})


@app.command(
    epilog="Examples:\n\n`maskfer demo`\n\n`maskfer demo --work /tmp/demo --people 12`",
    rich_help_panel="Start here",
)
def demo(
    work: Annotated[Path, typer.Option(help="Folder for everything the demo makes; emptied first.")] = Path(
        ".maskfer/demo"
    ),
    people: Annotated[int, typer.Option(min=6, help="Synthetic people to draw.")] = 24,
    per_person: Annotated[int, typer.Option(min=3, help="Pictures of each.")] = 15,
) -> None:
    """Run the whole line on synthetic faces: build, retrain, promote, serve, ask, score a clip."""
    atomic.check_replaceable(work, holds=_HOLDS, marker=_MARKER)
    work = work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / _MARKER).touch()
    run = _Demo(work)
    params = run.work / "params.yaml"
    params.write_text(_PARAMS, encoding="utf-8")
    policy = run.work / "policy.yaml"
    policy.write_text(_policy(), encoding="utf-8")
    raw, dataset = run.work / "raw", run.work / "dataset"
    counts = ("--people", str(people), "--per-person", str(per_person))
    run.run("draw photographs", "data", "synth", "--out", str(raw), *counts)
    run.run("build the dataset", "data", "build", str(raw), "--out", str(dataset), "--params", str(params))
    made_with = ("--params", str(params), "--policy", str(policy))
    run.run("train, judge, register", "retrain", "--data", str(dataset), *made_with)
    champion = run.read("models", "show", "champion", "--json")
    with run.service() as base_url:
        picture = sorted((raw / "images").glob("*"))[0]
        answer, version = _ask(base_url, picture)
    clip, scores = run.work / "clip.mp4", run.work / "scores"
    run.run("film a clip", "data", "clip", "--out", str(clip))
    run.run("score the clip", "score", str(clip), "--out", str(scores))
    _report(run, champion=champion, answer=answer, version=version, scores=scores)


def _report(
    run: _Demo, *, champion: dict[str, Any], answer: dict[str, Any], version: str, scores: Path
) -> None:
    import pyarrow.parquet as pq
    from rich.table import Table

    table = Table(title="What happened", title_justify="left", show_lines=False)
    for column in ("step", "seconds", "command"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for what, seconds, command in run.steps:
        table.add_row(what, f"{seconds:.1f}", command.replace(str(run.work) + "/", ""))
    console = plain()
    console.print(table)
    metrics, scored = champion["metrics"], pq.read_table(next(scores.glob("*.parquet")))
    unmasked, masked = (metrics[f"slices/{name}/accuracy"] for name in ("unmasked", "masked"))
    faces = answer["faces"]
    shares = {name: round(value, 2) for name, value in faces[0]["probabilities"].items()} if faces else {}
    home = f"MASKFER_HOME={run.work / 'home'}"
    console.print(
        f"champion   {champion['name']} version {champion['version']}: accuracy "
        f"{unmasked:.2f} unmasked, {masked:.2f} masked\n"
        f"service    model version {version} found {len(faces)} face(s): {shares}\n"
        f"clip       {scored.num_rows} faces over time in {scores}\n\n"
        f"look next  {home} maskfer models history\n"
        f"           {home} maskfer serve    # then open http://127.0.0.1:3000/\n"
        f"           {run.work / 'home' / 'runs'}: model card, plots, decision of each run"
    )
