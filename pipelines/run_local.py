"""Runs the graph on this machine with the SDK's local runner: one process per step, results cached."""

import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kfp import local

from maskfer import atomic
from maskfer.config import Params, Settings
from maskfer.data.table import table_sha256
from maskfer.errors import StageFailed
from maskfer.promotion import PromotionPolicy
from pipelines.retrain import Recipe, Table, graph, recipe
from pipelines.watch import Step, StepWatch

LOG: Final = "retrain.log"
METRICS: Final = "metrics.json"
FIGURES: Final = "figures.json"
_DECISION: Final = ("decision.json", "decision.md", "release")
_HOLDS: Final = (LOG, METRICS, FIGURES, "predictions.parquet", "plots", *_DECISION)
_OWN_ERRORS: Final = "maskfer.errors."
_FRAMES: Final = 9
CACHE: Final = "cache/pipeline"


@dataclass(frozen=True)
class LocalRun:
    """A finished run of the graph on this machine."""

    folder: Path
    """metrics.json, figures.json, predictions.parquet, plots/, decision.json, decision.md, release/."""
    steps: tuple[Step, ...]
    log: Path


def run(
    faces: Path, *, params: Params, policy: PromotionPolicy, settings: Settings, out: Path | None = None
) -> LocalRun:
    """Run the graph on a faces table and put its results at `out` (default: the run's own folder).

    Raises `InputError` as `check_results` does, and `StageFailed` with the failing step's name, its last
    lines and the log's path; `out` is then as it was before.
    """
    check_results(out, data=faces)
    started = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    root = settings.home.resolve() / "runs" / started
    root.mkdir(parents=True)
    table = Table(faces_uri=str(faces.resolve()), dataset_sha256=table_sha256(faces))
    made_by = recipe(params, policy=policy, model_name=settings.model_name)
    log = root / LOG
    with log.open("w", encoding="utf-8") as file:
        watch = StepWatch(log=file, terminal=sys.stdout)
        evaluation, decision = _execute(made_by, table, root=root, watch=watch, log=log)
    folder = out.resolve() if out is not None else root / "results"
    with atomic.new_folder(folder, holds=_HOLDS) as work:
        for source in (evaluation, decision):
            shutil.copytree(source, work, dirs_exist_ok=True)
        shutil.copyfile(log, work / LOG)
        metrics = json.loads((work / METRICS).read_text(encoding="utf-8"))
        (work / FIGURES).write_text(json.dumps(figures(metrics), indent=2) + "\n", encoding="utf-8")
    return LocalRun(folder=folder, steps=tuple(watch.steps), log=log)


def check_results(out: Path | None, *, data: Path) -> None:
    """Raise `InputError` where `out` holds `data`, or something that is not the results of an earlier run."""
    if out is not None:
        atomic.check_replaceable(out, holds=_HOLDS, marker=LOG, inputs=(data,))


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the few figures of an evaluation by which runs are told apart, e.g. by `dvc metrics diff`."""
    slices = {
        name: {figure: one[figure] for figure in ("accuracy", "macro_f1")}
        for name, one in metrics["slices"].items()
        if name in ("masked", "unmasked")
    }
    return slices | {name: metrics[name] for name in ("ece", "heatmap_iou", "mask_accuracy")}


def _execute(made_by: Recipe, table: Table, *, root: Path, watch: StepWatch, log: Path) -> tuple[Path, Path]:
    with tempfile.TemporaryDirectory(prefix="maskfer-retrain-") as scratch:
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            workspace_root=str(Path(scratch) / "workspace"),
            enable_caching=True,
            cache_root=str(root.parent.parent / CACHE),
        )
        try:
            # The runner leaves a folder behind per step, under TMPDIR. What goes to a pipe is buffered and
            # knows no width unless told.
            columns = str(shutil.get_terminal_size(fallback=(120, 24)).columns - 2)
            shown = {"TMPDIR": scratch, "PYTHONUNBUFFERED": "1", "COLUMNS": columns}
            # torch's threads wait for each other thousands of times an epoch. Where other work wants the
            # cores too, one that spins while it waits keeps the one it waits for from running.
            waits = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
            with _environment(shown | waits), _everything_printed_goes_to(watch):
                outputs = graph(made_by)(**asdict(table)).outputs
        except RuntimeError as error:
            failed = next((step.name for step in watch.steps if not step.succeeded), None)
            if failed is None:
                raise
            raise StageFailed(_failure(failed, watch, log)) from error
    return Path(outputs["evaluation"].path), Path(outputs["decision"].path)


def _failure(step: str, watch: StepWatch, log: Path) -> str:
    lines, reason = [*watch.tail], "its process ended without saying why (killed, or out of memory?)"
    if watch.traceback:
        reason = watch.traceback[-1]
        if reason.startswith(_OWN_ERRORS):
            reason = reason.partition(": ")[2]
        else:
            lines += watch.traceback[-_FRAMES:]
    quoted = "".join(f"\n  | {line}" for line in lines)
    return f"stage {step} failed: {reason}" + (f"{quoted}\n  " if quoted else "; ") + f"full log: {log}"


@contextmanager
def _everything_printed_goes_to(watch: StepWatch) -> Iterator[None]:
    # Cache hits are told to the root logger only, everything else is printed.
    logger = logging.getLogger()
    handler, level = logging.StreamHandler(watch), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with redirect_stdout(watch):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
